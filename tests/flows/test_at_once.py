"""Two runs of one recipe at once on one store: one builds, the other waits, says so, and reuses."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

# A judge that has time until the other run waits, however slow the machine.
JUDGE = """
import time
from pathlib import Path


def patient(prompts, responses):
    while not Path(__file__).with_name("waited").exists():
        time.sleep(0.05)
    return [float(len(response)) for response in responses]
"""
WORDS = ("--set", "evaluation.judge.name=patience:patient", "--set", "registry=null")  # one stage is to be built


@pytest.fixture
def waited(tiny):
    """Says to the judge that the other run waits."""
    place, judge = tiny.folder / "waited", tiny.folder / "patience.py"
    judge.write_text(JUDGE)
    yield place.touch
    place.unlink(missing_ok=True)
    judge.unlink()


def test_one_builds_the_other_waits_and_each_has_its_own_run(copy, tiny, start_warm, client_of, waited):
    both = [start_warm("run", tiny.recipe, "--store", copy, "--json", *WORDS, cwd=tiny.folder) for _ in range(2)]
    said = [process.printed[1] for process in both]
    while not any(path.exists() and "waiting for process " in path.read_text("utf-8") for path in said):
        assert [process.poll() for process in both] == [None, None], [process.communicate() for process in both]
        time.sleep(0.1)
    waited()
    printed = [process.communicate() for process in both]
    assert [process.poll() for process in both] == [0, 0], printed
    one, two = (json.loads(out) for out, _ in printed)
    built = [[stage["name"] for stage in of["stages"] if not stage["reused"]] for of in (one, two)]
    assert sorted(built) == [[], ["evaluate"]]
    assert "which holds " in printed[built.index([])][1]

    assert one["run_id"] != two["run_id"]
    assert one["report"] != two["report"]
    assert all(Path(of["report"]).is_file() for of in (one, two))
    client = client_of(copy)
    assert [client.get_run(of["run_id"]).info.status for of in (one, two)] == ["FINISHED", "FINISHED"]
