"""What the process of a chain imports: it waits for stages or reuses them, and needs no library of models for that."""

from __future__ import annotations

import json
import subprocess
import sys

from schemas.results import RunReport

HEAVY = ("torch", "transformers", "datasets", "peft")
ENTRY = """
import json, sys
from flows.cli import main
sys.argv = ["posttrain", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
found = [name for name in {heavy} if name in sys.modules]
print(json.dumps(found), file=sys.stderr)
"""


def test_the_chain_and_the_tasks_of_its_stages_import_no_library_of_models(helpers):
    code = (
        "import sys; import flows.deployed.engine, flows.deployed.chain;"
        "import tasks.data, tasks.training, tasks.evaluation, tasks.register;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=helpers.environment(), capture_output=True, text=True, timeout=500)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_run_that_reuses_every_stage_uses_none_either(copy, tiny, prefect_url, helpers):
    command = [sys.executable, "-c", ENTRY.format(heavy=HEAVY), "run", str(tiny.recipe), "--store", str(copy), "--json"]
    variables = helpers.environment(PREFECT_API_URL=prefect_url)
    done = subprocess.run(command, env=variables, cwd=tiny.folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    report = RunReport.model_validate_json(done.stdout)
    assert all(stage.reused for stage in report.stages)
    assert report.chat_template is not None
    assert json.loads(done.stderr.strip().splitlines()[-1]) == []
