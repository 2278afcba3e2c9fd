"""`python -m bench rollouts`: sampled tokens per second, ours against `generate` of transformers, in alternating processes.

Both sample from the full distribution at temperature 1 after the same prompts, in one batch: once to the last token, with EOS
switched off, and once with an EOS that comes after 32 tokens on average. Before that both decode greedily, which must agree.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import sides
from bench.workload import LENGTHS, SHAPES, SMALLEST_VOCABULARY, USUAL_LENGTHS, eos_id, make_model, rows, token_ids
from schemas.errors import Refusal

USUAL_TOKENS = 32  # mean of a geometric length
COLD = 1e-5  # temperature at which ours is greedy
AGREEMENT = 0.95  # share of greedy tokens: where two logits are equal up to rounding, the rest of a response differs
SIDES = ("ours", "transformers")
RUNS = ("full_length", "with_eos")


def main(arguments: list[str]) -> None:
    """Run both sides in turns and print tokens per second, peak memory and ratios."""
    given = _parse(arguments)
    if given.side:
        print(json.dumps(measure(given)))
        return
    if given.vocab < SMALLEST_VOCABULARY:
        refusal = Refusal("--vocab", str(given.vocab), f"{SMALLEST_VOCABULARY} or more", "raise it: the prompts use that many tokens")
        print(refusal, file=sys.stderr)
        sys.exit(2)
    result = compare(given)
    print(json.dumps(result, indent=1) if given.json else table(result))
    if result["greedy_agreement"] < AGREEMENT:
        sys.exit(f"greedy tokens agree by {result['greedy_agreement']:.3f}, asked {AGREEMENT}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench rollouts", description=__doc__)
    parser.add_argument("--vocab", type=int, default=8192, help="tokens of the vocabulary")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="shape of the model")
    parser.add_argument("--prompts", type=int, default=64, help="prompts of the batch")
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of a response")
    parser.add_argument("--repeats", type=int, default=3, help="times that each process samples")
    parser.add_argument("--rounds", type=int, default=2, help="processes per side, in turns")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu in fp32, cuda in bf16")
    parser.add_argument("--threads", type=int, help="threads of each operator; default: as many as cores")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Every side `rounds` times in turns; of the rounds the fastest counts, since other work on the machine only adds time."""
    numbers = {name: getattr(given, name) for name in ("vocab", "shape", "prompts", "tokens", "repeats", "device")}
    flags = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for turn in range(given.rounds):
        for side in SIDES:
            command = [sys.executable, "-m", "bench", "rollouts", *flags, "--side", side]
            measured[side].append(json.loads(sides.call(command, given.threads)))
            print(f"round {turn + 1}: {side} done", file=sys.stderr)
    return {**numbers, "rounds": given.rounds, "threads": given.threads, **assemble(measured)}


def assemble(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Tokens per second of each side, how many times more ours has, its share of the memory, and how far the tokens agree."""
    best = {side: {run: max(each[run] for each in rounds) for run in RUNS} for side, rounds in measured.items()}
    peaks = {side: max(each["peak_gb"] for each in rounds) for side, rounds in measured.items()}
    pairs = list(zip(*(measured[side][0]["greedy"] for side in SIDES), strict=True))
    ratios = {run: best["ours"][run] / best["transformers"][run] for run in RUNS}
    return {
        "tokens_per_second": best,
        "peak_gb": peaks,
        "ratios": {**ratios, "memory_share": peaks["ours"] / peaks["transformers"]},
        "greedy_agreement": sum(a == b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
        / sum(len(ours) for ours, _ in pairs),
    }


def table(result: Mapping[str, Any]) -> str:
    """The numbers that a person compares."""
    lines = [f"{result['prompts']} prompts, {result['tokens']} tokens, vocabulary {result['vocab']:,}, {result['shape']}, {result['device']}"]
    lines.append(f"{'tokens/s':<14}" + "".join(f"{run:>14}" for run in RUNS) + f"{'peak GB':>10}")
    for side in SIDES:
        speeds = "".join(f"{result['tokens_per_second'][side][run]:>14,.0f}" for run in RUNS)
        lines.append(f"{side:<14}{speeds}{result['peak_gb'][side]:>10.2f}")
    lines.append(f"{'ratio':<14}" + "".join(f"{result['ratios'][run]:>13.2f}x" for run in RUNS) + f"{result['ratios']['memory_share']:>10.2f}")
    return "\n".join([*lines, f"greedy tokens that agree: {result['greedy_agreement']:.4f}"])


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One side: tokens per second of both runs, peak memory in GB, and the greedy tokens."""
    import torch

    model = _model(given.vocab, given.shape).to(given.device).eval()
    prompts = [token_ids(row["prompt"]) for row in rows(given.prompts, *LENGTHS.get(given.shape, USUAL_LENGTHS))]
    respond = {"ours": _ours, "transformers": _transformers}[given.side]
    with torch.no_grad(), torch.autocast(given.device, dtype=torch.bfloat16, enabled=given.device == "cuda"):
        greedy = respond(model, prompts, given.tokens, None, 0, True)  # also warms up
        ends = {"full_length": None, "with_eos": eos_id(given.vocab)}
        speeds = {run: _speed(respond, model, prompts, given, ends[run]) for run in RUNS}
    peak = torch.cuda.max_memory_allocated() / 1e9 if given.device == "cuda" else sides.peak_gb()
    return {**speeds, "peak_gb": peak, "greedy": greedy}


def _model(vocabulary: int, shape: str) -> Any:
    """The workload's model with a bias on EOS, which is drawn after `USUAL_TOKENS` tokens on average."""
    import torch

    model = make_model(vocabulary, shape)
    head = torch.nn.Linear(model.config.hidden_size, vocabulary)
    head.weight = model.lm_head.weight
    torch.nn.init.zeros_(head.bias)
    with torch.no_grad():
        head.bias[eos_id(vocabulary)] = math.log(vocabulary / (USUAL_TOKENS - 1))
    model.lm_head = head
    return model


def _speed(respond: Callable[..., list[list[int]]], model: Any, prompts: list[list[int]], given: argparse.Namespace, eos: int | None) -> float:
    """Tokens per second over all repeats, each with a seed of its own."""
    began = sides.clocks()[0]
    tokens = sum(len(row) for seed in range(given.repeats) for row in respond(model, prompts, given.tokens, eos, seed, False))
    return tokens / (sides.clocks()[0] - began)


def _ours(model: Any, prompts: list[list[int]], tokens: int, eos: int | None, seed: int, greedy: bool) -> list[list[int]]:
    import numpy as np

    from posttrain.rollouts import Sampling, sample

    plan = Sampling(max_new_tokens=tokens, temperature=COLD if greedy else 1.0, seed=seed, eos=-1 if eos is None else eos, pad=0)
    return [response.tolist() for (response,) in sample(model, [np.asarray(prompt, np.int32) for prompt in prompts], plan)]


def _transformers(model: Any, prompts: list[list[int]], tokens: int, eos: int | None, seed: int, greedy: bool) -> list[list[int]]:
    import torch

    torch.manual_seed(seed)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    attended = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    model.generation_config.eos_token_id = eos
    drawn = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
    out = model.generate(ids, attention_mask=attended, max_new_tokens=tokens, pad_token_id=0, **drawn)[:, width:].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in out]
