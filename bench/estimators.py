"""`python -m bench estimators`: GAE, RLOO and GRPO on the same samples, on two tasks, with intervals over seeds.

`reviews` is the task of quickstart-ppo: it starts from the SFT policy and the reward model of a finished run (`--store`), and
what counts is that model's mean reward on held-out prompts. `chain` is a task whose critic must matter: responses of 200 tokens
by a tiny policy that mostly repeats its last token, rewarded at their end by the share of odd tokens, so that a few tokens decide
and the state tells what is to come; what counts is the mean reward of an iteration's responses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.statistics.intervals import student_t

METHODS: dict[str, dict[str, Any]] = {
    "gae": {"advantage": "gae"},
    "gae, critic idle": {"advantage": "gae", "critic": {"init": "zero", "learning_rate": 1e-9}},  # what the critic is worth
    "rloo": {"advantage": "rloo", "samples": 4},
    "grpo": {"advantage": "grpo", "samples": 4},
}
TASKS = {"reviews": "bench.estimators_reviews:run", "chain": "bench.estimators_chain:run"}
Curve = list[tuple[float, float, float]]
"""After each iteration: processor seconds, what counts, and the explained variance of sampled returns (0 without a critic)."""


def main(arguments: list[str]) -> None:
    """Run every method and seed in a process of its own, and print the table."""
    given = _parse(arguments)
    methods = [name for name in METHODS if not given.methods or name in given.methods]
    if given.method:  # one of the processes
        print(json.dumps(_measure(given)))
        return
    curves = {name: [_apart(given, name, seed) for seed in range(given.seeds)] for name in methods}
    rows = table(curves)
    print(json.dumps({"curves": curves, "rows": rows}, indent=1) if given.json else markdown(given.task, rows))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench estimators", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--store", help="of a finished run of quickstart-ppo.yaml (reviews)")
    parser.add_argument("--seeds", type=int, choices=range(2, 100), metavar="N", default=3)
    parser.add_argument("--iterations", type=int, default=16)
    parser.add_argument("--methods", nargs="*", help=f"of {', '.join(METHODS)}; all by default")
    parser.add_argument("--json", action="store_true", help="with the curves")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _apart(given: argparse.Namespace, method: str, seed: int) -> Curve:
    words = [given.task, "--method", method, "--seed", str(seed), "--iterations", str(given.iterations)]
    words += ["--store", given.store] if given.store else []
    done = subprocess.run([sys.executable, "-m", "bench", "estimators", *words], check=True, stdout=subprocess.PIPE, text=True)
    print(f"{method}, seed {seed}: done", file=sys.stderr)
    return [tuple(point) for point in json.loads(done.stdout.splitlines()[-1])]


def _measure(given: argparse.Namespace) -> Curve:
    from pkgutil import resolve_name

    run: Callable[..., Curve] = resolve_name(TASKS[given.task])
    with tempfile.TemporaryDirectory() as scratch:
        return run(METHODS[given.method], given.seed, given.iterations, Path(scratch), given.store)


def read_curve(out: Path, metric: str, began: float) -> Curve:
    """The points of a run in `out`; its processor seconds, of which the curve has the wall's, are shared out by these."""
    points = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    points = [point for point in points if metric in point]
    share = (time.process_time() - began) / max(point["seconds"] for point in points)
    return [(point["seconds"] * share, point[metric], point.get("explained_variance_mc", 0.0)) for point in points]


def table(curves: dict[str, list[Curve]]) -> list[dict[str, Any]]:
    """One row per method: seconds of an iteration, what counts at equal samples and at equal time, and the critic's share."""
    least = min(statistics.mean(curve[-1][0] for curve in of_method) for of_method in curves.values())
    return [
        {
            "method": name,
            "cpu seconds": statistics.mean(curve[-1][0] for curve in of_method),
            "start": statistics.mean(curve[0][1] for curve in of_method),
            "equal samples": interval([curve[-1][1] for curve in of_method]),
            "equal time": interval([_at(curve, least) for curve in of_method]),
            "explained": interval([curve[-1][2] for curve in of_method]),
        }
        for name, of_method in curves.items()
    ]


def _at(curve: Curve, seconds: float) -> float:
    """What counted after the last iteration that was done by then."""
    return [value for when, value, _ in curve if when <= seconds * 1.001 or when == curve[0][0]][-1]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean over seeds, and how far its 95% interval reaches to each side (Student's t)."""
    return statistics.mean(values), float(student_t(len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def markdown(task: str, rows: list[dict[str, Any]]) -> str:
    """The table of the documentation."""
    lines = [f"| {task} | CPU seconds | at the start | at equal samples | at equal time | explained variance |", "|" + "---|" * 6]
    for row in rows:
        ranges = [f"{mean:.3f} ± {reach:.3f}" for mean, reach in (row["equal samples"], row["equal time"], row["explained"])]
        lines.append(f"| {row['method']} | {row['cpu seconds']:.0f} | {row['start']:.3f} | {' | '.join(ranges)} |")
    return "\n".join(lines)
