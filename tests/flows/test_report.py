"""`posttrain report`, who judged a version, and its lineage as OpenLineage events, on the finished run."""

from __future__ import annotations

import json
import re
import uuid

from tasks.report import RECIPE

MODEL = "models:/tiny@champion"


def without_date(page: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page)


def test_the_page_of_a_run_is_written_anew_from_the_store(copy, finished, warm, tiny, helpers):
    """But for its date it is the page that the run wrote."""
    run = finished.report.run_id
    page = copy / "runs" / run / "report.html"
    before = page.read_text()
    page.unlink()
    done = warm("report", run, "--store", copy, cwd=tiny.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(page)
    assert without_date(page.read_text()) == without_date(before)
    refused = warm("report", "nobody", "--store", copy, cwd=tiny.folder)
    assert refused.returncode == 2
    helpers.assert_helpful(refused.stderr, ("nobody",))
    (page.parent / RECIPE).unlink()
    refused = warm("report", run, "--store", copy, cwd=tiny.folder)
    assert refused.returncode == 2
    helpers.assert_helpful(refused.stderr, (RECIPE, "posttrain run"))


def test_the_stage_that_judged_a_version_is_named_and_verified(copy, warm, tiny):
    done = warm("lineage", MODEL, "--store", copy, "--verify", "--json", cwd=tiny.folder)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [stage["stage"] for stage in document["judged_by"]] == ["evaluate"]
    [evaluation] = (copy / "evaluate").glob("*/evaluation.json")
    content = bytearray(evaluation.read_bytes())
    content[len(content) // 2] ^= 1
    evaluation.write_bytes(content)
    done = warm("lineage", MODEL, "--store", copy, "--verify", cwd=tiny.folder)
    assert done.returncode == 2
    assert "evaluate (" in done.stderr


def test_the_lineage_is_told_as_openlineage_events(finished, warm, tiny):
    """Required by the spec: event time, producer, schema, a UUID of the run, and a job with namespace and name."""
    done = warm("lineage", MODEL, "--store", finished.store, "--openlineage", cwd=tiny.folder)
    assert done.returncode == 0, done.stderr
    events = json.loads(done.stdout)
    assert {event["job"]["name"] for event in events} == {stage.name for stage in finished.report.stages}
    outputs = {each["name"]: each["facets"]["version"]["datasetVersion"] for event in events for each in event["outputs"]}
    for event in events:
        assert {"eventTime", "producer", "schemaURL", "run", "job"} <= event.keys()
        uuid.UUID(event["run"]["runId"])
        assert event["eventType"] == "COMPLETE"
        for each in event["inputs"]:
            if "/" in each["name"] and each["name"].partition("/")[0] in {stage.name for stage in finished.report.stages}:
                assert each["name"] in outputs, "an input of a stage is what another one put out"
    assert any(each["name"].startswith("data.preferences ") for event in events for each in event["inputs"])
