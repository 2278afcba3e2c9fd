"""Writes report.html: reads the stages' folders, draws the figures, fills the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from posttrain.report import read, samples
from posttrain.report.by_source import by_source
from posttrain.report.costs import cost
from posttrain.report.decision import advice, verdict
from posttrain.report.left_out import left_out
from posttrain.report.page import write_page
from posttrain.report.read import Folders, Json
from posttrain.runtime.integrity import read_result
from schemas.data import CONTRACTS
from schemas.estimates import Estimate
from schemas.recipe import Recipe
from schemas.results import RunReport, StageResult
from schemas.secrets import without_credentials

TEMPLATE = "report.html.j2"
# Columns of the tables; a number that a stage did not measure is a dash, not a crash after hours of training.
POLICY = ("reward", "reward_interval", "kl_per_token", "length", "eos_share", "perplexity")
METRIC = ("value", "interval", "unit")
CHECK = ("severity", "count", "share", "limit", "failed", "examples")
PER_POLICY = ("reward", "perplexity", "eos_share", "response_tokens")


def write_report(
    recipe: Recipe, run: RunReport, folders: Mapping[str, Path], out: Path, *, written: datetime | None = None,
    rows: bool = True, earlier: Sequence[Json] = (),
) -> Path:  # fmt: skip
    """Write the report of a run as one HTML file without scripts, external files or network addresses.

    Args:
        recipe: what was asked for.
        run: what the run printed.
        folders: finished store folder by stage; a stage, or a file in its folder, may be absent, and so is its section then.
        out: the file to write, or an existing folder for `report.html`. Replaced atomically.
        written: date in the header; None is now. Everything else depends on the other arguments alone.
        rows: show prompts and responses, which are the user's own and not for everyone who reads a tracking server.
        earlier: versions of the registered model, as `policies` of the evaluation but with the name of the version.

    Returns:
        Path of the written file.
    """
    target = out / "report.html" if out.is_dir() else out
    target.parent.mkdir(parents=True, exist_ok=True)
    content = _content(recipe, run, folders, earlier) | {"written": written or datetime.now(UTC)}
    content |= {} if rows else {"course": [], "groups": [], "left_out": {}, "sources_by_gain": _without_answers(content)}
    write_page(TEMPLATE, target, content)
    return target


def _without_answers(content: Mapping[str, Any]) -> list[Any]:
    return [replace(each, worst=None) for each in content["sources_by_gain"]]


def _content(recipe: Recipe, run: RunReport, folders: Folders, earlier: Sequence[Json]) -> dict[str, Any]:
    """Everything that the template names."""
    evaluation = read.document(folders, "evaluate", "evaluation.json")
    validation = read.document(folders, "validate", "summary.json")
    filtering = read.document(folders, "filter", "summary.json")
    reward = read.document(folders, "reward", "reward.json")
    frame = read.samples(folders)
    names = samples.policies(frame, [policy["policy"] for policy in evaluation.get("policies", [])])
    curves = {stage: read.curve(folders, stage) for stage in folders}
    results = {name: result for name, folder in folders.items() if (result := read_result(folder))}
    asked = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return {
        "recipe": recipe,
        "recipe_yaml": without_credentials(asked),
        "run": run,
        "verdict": verdict(recipe, run),
        "advice": advice(recipe, run),
        "temperature": evaluation.get("temperature"),
        "policies": _rows(evaluation.get("policies", []), POLICY),
        "metrics": _rows(_beyond_policies(evaluation), METRIC),
        "benchmarks": _benchmarks(read.document(folders, "benchmark", "benchmarks.json")),
        "checks": {kind: _rows(validation[kind]["checks"], CHECK) for kind in CONTRACTS if validation.get(kind)},
        "chosen_longer": (validation.get("preferences") or {}).get("chosen_longer"),
        "filtering": filtering,
        "reward": reward,
        "reward_interval": Estimate.of(reward, "held_out_accuracy").interval if reward else None,
        "skipped": [stage for stage in recipe.stages if stage not in {ran.name for ran in run.stages}],
        "on_policy": read.document(folders, "align", "on_policy.json"),
        "course": samples.course(read.lines(folders, "align", "rollouts.jsonl")),
        "groups": samples.groups(frame, names, recipe.seed),
        "sources_by_gain": by_source(frame, names),
        "left_out": left_out(folders),
        "costs": [cost(stage, results.get(stage.name), curves.get(stage.name, [])) for stage in run.stages],
        "lineage": [results[stage.name] for stage in run.stages if stage.name in results],
        "built_with": _built_with(results),
        "sources": _sources(folders),
        **_charts(evaluation, validation, filtering, curves, reward, _encoded(folders), (frame, names), earlier),
        "tree": _drawn_lineage(run, results),
    }


def _encoded(folders: Folders) -> dict[str, dict[str, Json]]:
    """By data set and stage: how many training rows became examples."""
    read_by = {stage: read.document(folders, stage, "rows.json") for stage in folders}
    return {kind: {stage: found for stage, found in read_by.items() if found.get("data") == kind} for kind in CONTRACTS}


def _sources(folders: Folders) -> dict[str, dict[str, int]]:
    """Where the rows are from that evaluation asked, and those behind validation losses, by what they were used for."""
    used = {"prompts of evaluation": read.document(folders, "evaluate", "rows.json").get("prompts")}
    for stage in folders:
        validation = read.document(folders, stage, "rows.json").get("validation") or {}
        used[f"validation of {stage}"] = validation.get("by_source")
    return {what: rows for what, rows in used.items() if rows}


def _rows(found: list[Json], columns: tuple[str, ...]) -> list[Json]:
    return [dict.fromkeys(columns) | row for row in found]


def _benchmarks(written: Json) -> list[Json]:
    """A row for each policy on each benchmark, with the candidate's difference to it."""
    rows = []
    for each in written.get("benchmarks", []):
        gaps = {gap["opponent"]: gap for gap in each["differences"]}
        for score in each["policies"]:
            gap = gaps.get(score["policy"], {})
            told = {name: gap.get(name) for name in ("gained", "lost", "mcnemar_p")}
            shared = {name: each[name] for name in ("task", "metric", "higher_is_better", "documents", "shots")}
            rows.append({**shared, **score, "gap": gap.get("value"), "gap_interval": gap.get("interval"), **told})
    return rows


def _beyond_policies(evaluation: Json) -> list[Json]:
    """Metrics that the table of policies does not show already."""
    shown = {f"{metric}_{policy['policy']}" for policy in evaluation.get("policies", []) for metric in PER_POLICY}
    return [metric for metric in evaluation.get("metrics", []) if metric["name"] not in shown]


def _built_with(results: dict[str, StageResult]) -> dict[str, str]:
    """Stages by the versions that built them; reused stages may be older than the rest."""
    stages: dict[str, list[str]] = {}
    for name, result in results.items():
        versions = ", ".join(f"{package} {version}" for package, version in sorted(result.environment.items()))
        stages.setdefault(versions, []).append(name)
    return {", ".join(names): versions for versions, names in stages.items()}


def _drawn_lineage(run: RunReport, results: dict[str, StageResult]) -> list[Any]:
    from posttrain.report.lineage import drawing

    return drawing([results[stage.name] for stage in run.stages if stage.name in results])


def _charts(
    evaluation: Json, validation: Json, filtering: Json, curves: dict[str, list[Json]], reward: Json,
    encoded: dict[str, dict[str, Json]], length: tuple[Any, list[str]], earlier: Sequence[Json],
) -> dict[str, Any]:  # fmt: skip
    """Figures by section. matplotlib is imported here, so that nothing else pays for it."""
    from posttrain.report import curves as drawn
    from posttrain.report import figures, funnel
    from posttrain.report import reward as rewards

    preferences = validation.get("preferences") or {}
    return {
        "win_rates": figures.win_rates(evaluation.get("win_rates", [])),
        "frontier": figures.frontier(evaluation.get("policies", []), earlier),
        "calibration": rewards.calibration(evaluation),
        "funnels": [
            *funnel.documents(filtering),
            *(chart for kind in sorted(CONTRACTS) for chart in funnel.rows(kind, validation.get(kind) or {}, encoded[kind])),
            *funnel.rows("prompts", validation.get("prompts") or {}, encoded["prompts"]),
            *figures.length_histogram(preferences.get("length_histogram") or {}),
        ],
        "histograms": drawn.filter_histograms(filtering.get("metrics", {})),
        "curves": {stage: drawn.stage_curves(stage, points) for stage, points in curves.items() if points},
        "rewards": rewards.charts(reward),
        "length": figures.length_against_reward(*length),
    }
