"""The quickstart as champion: a candidate of reversed labels does not replace it, a better one does, and it is restored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain.data.samples import write_sample
from schemas.results import RunReport

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
QUICKSTART = Path(__file__).resolve().parents[2] / "deployments" / "recipes" / "quickstart.yaml"
NO_GATES = "evaluation.gates={win_rate_vs_sft: null, kl_per_token: null}"  # so that the champion alone decides


@pytest.fixture(scope="module")
def quickstart(warm, client_of, tmp_path_factory) -> SimpleNamespace:
    """A store whose champion is version 1, how to run the recipe on it with changes, and which version is champion."""
    folder = tmp_path_factory.mktemp("quickstart")
    store = folder / "store"

    def run(*changes: str) -> SimpleNamespace:
        words = [word for change in changes for word in ("--set", change)]
        done = warm("run", QUICKSTART, "--store", store, "--json", *words, cwd=folder, seconds=2400)
        assert done.returncode in (0, 3), done.stderr
        return SimpleNamespace(code=done.returncode, report=RunReport.model_validate_json(done.stdout), said=done.stderr)

    def champion() -> str:
        return str(client_of(store).get_model_version_by_alias("quickstart", "champion").version)

    first = run()
    assert (first.code, champion()) == (0, "1")
    return SimpleNamespace(folder=folder, store=store, run=run, champion=champion)


@pytest.fixture(scope="module")
def reversed_labels(quickstart) -> str:
    """The sample pairs with chosen and rejected exchanged."""
    path, out = quickstart.folder / "pairs.jsonl", quickstart.folder / "reversed.jsonl"
    write_sample("preferences", path)
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for row in rows:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data.preferences={out}"


def test_reversed_labels_do_not_replace_the_champion_and_it_is_said_by_how_much(quickstart, reversed_labels, client_of):
    """Against the champion, and then by the recipe's own gates, for which nothing is trained again."""
    refused = quickstart.run(reversed_labels, NO_GATES)
    assert refused.code == 3
    assert quickstart.champion() == "1"
    assert client_of(quickstart.store).get_model_version("quickstart", "2").aliases == ["challenger"]
    said = refused.report.promotion
    told = re.fullmatch(
        r"promotion refused: version 2 wins ([\d.]+)% of held-out prompts against champion version 1 \(95% interval ([\d.]+)% to "
        r"([\d.]+)%\); the lower end must be above 50%, it is ([\d.]+)% short", said
    )  # fmt: skip
    assert told, said
    won, low, high, short = map(float, told.groups())
    assert low < won < high < 50
    assert short == pytest.approx(50 - low, abs=0.11)
    assert said in refused.said
    gated = quickstart.run(reversed_labels)
    assert gated.code == 3
    assert [stage.name for stage in gated.report.stages if not stage.reused] == []
    assert {gate.name: gate.passed for gate in gated.report.gates}["win_rate_vs_sft"] is False
    assert "gate win_rate_vs_sft: measured 0." in gated.report.promotion
    assert quickstart.champion() == "1"


def test_a_better_candidate_is_promoted_and_a_rollback_restores_the_champion(quickstart, warm):
    """All weights in place of LoRA's steer the answers further from SFT and win nearly always."""
    better = quickstart.run("alignment.peft={method: full}", NO_GATES)
    assert (better.code, better.report.model.alias) == (0, "champion"), better.report.promotion
    assert "in place of version 1" in better.report.promotion
    assert quickstart.champion() == better.report.model.version != "1"
    done = warm("rollback", "quickstart", "--because", "a test", "--store", quickstart.store, cwd=quickstart.folder)
    assert done.returncode == 0, done.stderr
    assert quickstart.champion() == "1"
