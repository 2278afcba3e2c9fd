"""Two recipes at once on a gpu worker that takes one run at a time: their stages there come one after the other."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stages_of_two_recipes_take_turns(site, small, helpers, stages_of):
    """Each has one stage to build on the gpu pool, of another length of answers."""
    words = [("--set", f"evaluation.max_new_tokens={count}", "--set", "registry=null") for count in (11, 12)]
    command = [sys.executable, "-m", "flows.cli", "trigger", str(small.recipe), "--wait", "--json"]
    variables = helpers.environment(**site.clients)
    both = [
        subprocess.Popen(
            [*command, *more], cwd=site.store, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for more in words
    ]
    printed = [process.communicate(timeout=550) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    runs = [stages_of(json.loads(out)["flow_run"])["evaluate"] for out, _ in printed]
    first, second = sorted(runs, key=lambda run: run.start_time)
    assert {run.work_pool_name for run in runs} == {"gpu"}
    assert first.end_time <= second.start_time
