"""Two runs of one recipe at once on one store: one builds, the other waits, says so, and reuses."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = ("--set", "evaluation.max_new_tokens=7", "--set", "registry=null")  # one stage is to be built


def test_one_builds_the_other_waits_and_each_has_its_own_run(copy, tiny, start_warm, client_of):
    both = [start_warm("run", tiny.recipe, "--store", copy, "--json", *WORDS, cwd=tiny.folder) for _ in range(2)]
    printed = [process.communicate() for process in both]
    assert [process.poll() for process in both] == [0, 0], printed
    one, two = (json.loads(out) for out, _ in printed)
    built = [[stage["name"] for stage in of["stages"] if not stage["reused"]] for of in (one, two)]
    assert sorted(built) == [[], ["evaluate"]]
    waited = printed[built.index([])][1]
    assert "waiting for process " in waited
    assert "which holds " in waited

    assert one["run_id"] != two["run_id"]
    assert one["report"] != two["report"]
    assert all(Path(of["report"]).is_file() for of in (one, two))
    client = client_of(copy)
    assert [client.get_run(of["run_id"]).info.status for of in (one, two)] == ["FINISHED", "FINISHED"]
