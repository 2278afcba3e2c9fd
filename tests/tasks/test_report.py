"""What the report of a run says beside its numbers."""

from __future__ import annotations

import json
import re
import uuid

import pytest

from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import RESULT, Built, Store
from schemas.errors import Refusal
from schemas.recipe import Recipe
from tasks import lineage, tracking
from tasks.report import RECIPE, build_report, publish, rebuild, unsealed
from tasks.stage import stage_report
from tasks.version_tags import RUN

STAGES = ("validate", "align", "evaluate")


def a_chain(root) -> Chain:
    """A chain of three stages that are finished."""
    (root.parent / "model").mkdir(exist_ok=True)
    (root.parent / "pairs.jsonl").write_text('{"prompt": "How was the soup?", "chosen": "Warm.", "rejected": "Cold."}\n')
    document = {
        "name": "house", "model": {"source": "local", "path": str(root.parent / "model")},
        "data": {"preferences": str(root.parent / "pairs.jsonl")}, "alignment": {"algorithm": "dpo"},
        "evaluation": {"judge": {"name": "posttrain.data.samples:sentiment"}},
    }  # fmt: skip
    chain = Chain(Recipe.model_validate(document), Store(root))
    for stage, output in zip(STAGES, ("preferences", "adapter", "samples"), strict=True):
        chain.store.build(chain.identity(stage), lambda out, name=output: _built(out, name))
    return chain


def _built(out, name: str) -> Built:
    (out / name).write_text(name)
    return Built({}, {name: name})


def test_results_without_a_seal_are_named(tmp_path):
    chain = a_chain(tmp_path / "store")
    assert unsealed(chain, STAGES) == []
    for stage in ("align", "evaluate"):
        path = chain.stored(stage).folder / RESULT
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seal": None}))
    [notice] = unsealed(Chain(chain.recipe, Store(tmp_path / "store")), STAGES)
    assert notice.startswith("results without a seal, since an older version wrote them: align, evaluate.")
    assert "run again" in notice


@pytest.fixture
def published(tmp_path):
    """A run that was reported: its chain and its report."""
    chain = a_chain(tmp_path / "store")
    run_id = tracking.start_run(chain.recipe, chain.store.root)
    stages = [stage_report(chain.stored(stage), 1.0) for stage in STAGES]
    report = build_report(chain, run_id, stages, None, 3.0)
    publish(chain, report)
    return chain, report


def without_date(page: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page)


def test_the_page_of_a_run_is_written_anew_from_the_store(published):
    """But for its date it is the page that the run wrote; a run without its recipe, or none at all, is refused."""
    chain, report = published
    before = report.report.read_text()
    report.report.unlink()
    assert rebuild(chain.store.root, report.run_id) == report.report
    assert without_date(report.report.read_text()) == without_date(before)
    (report.report.parent / RECIPE).unlink()
    with pytest.raises(Refusal, match="posttrain run"):
        rebuild(chain.store.root, report.run_id)
    with pytest.raises(Refusal):
        rebuild(chain.store.root, "nobody")


def test_lineage_names_the_judge_verifies_it_and_tells_events(published):
    """The run ends with the stage evaluate, which is its own last link; of a registered version it is beside the chain."""
    chain, report = published
    root = chain.store.root
    align = chain.stored("align").result
    walked = [(chain.stored(stage).result, root) for stage in ("validate", "align")]
    assert [result.stage for result, _ in lineage._judges(report.run_id, walked, {})] == ["evaluate"]
    assert lineage._judges("models:/house/1", walked, {RUN: "gone"}) == []
    events = lineage.events_of(report.run_id, root, None)
    assert {event["job"]["name"] for event in events} == set(STAGES)
    outputs = {each["name"] for event in events for each in event["outputs"]}
    assert f"align/{align.key}" in outputs
    named = [each["name"] for event in events for each in event["inputs"]]
    assert {name for name in named if name.partition("/")[0] in STAGES} <= outputs
    for event in events:
        assert {"eventTime", "producer", "schemaURL", "run", "job"} <= event.keys()
        uuid.UUID(event["run"]["runId"])
    assert lineage.lineage_of(report.run_id, root, None, verify=True)["verified"]
    (chain.stored("evaluate").folder / "samples").write_text("changed")
    with pytest.raises(Refusal, match="evaluate"):
        lineage.prove([*lineage._judges(report.run_id, walked, {}), *walked], {})
