"""Keys in Secret blocks of a real Prefect server: `block://NAME` in a recipe."""

from __future__ import annotations

import json
import subprocess
import sys

# In a process of its own: Prefect reads the address of its server when it is imported.
CHILD = """
import json, os, sys
from prefect.blocks.system import Secret
from schemas.errors import Refusal
from schemas.load import validate_recipe
from tasks.secret_blocks import read_blocks

Secret(value="correct-horse-battery").save("judge-key", overwrite=True)

def judged(key):
    judge = {"source": "endpoint", "url": "https://api.example.com/v1", "model": "m", "key": key}
    return validate_recipe({
        "name": "judged", "model": {"source": "local", "path": "m"}, "data": {"preferences": "p"},
        "alignment": {"algorithm": "dpo"}, "evaluation": {"judge": judge},
    }, "test")

before = set(os.environ)
read_blocks(judged("block://judge-key"))
found = {name: os.environ[name] for name in set(os.environ) - before}
try:
    read_blocks(judged("block://nobody"))
except Refusal as refusal:
    refused = str(refusal)
read_blocks(judged("${HOUSE_KEY}"))
print(json.dumps({"found": found, "refused": refused, "recipe": judged("block://judge-key").model_dump_json()}))
"""


def test_a_key_is_read_from_a_block_into_the_environment_and_stands_in_no_recipe(prefect_url, helpers):
    variables = helpers.environment(PREFECT_API_URL=prefect_url)
    done = subprocess.run([sys.executable, "-c", CHILD], env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert list(told["found"].values()) == ["correct-horse-battery"]
    assert "block://nobody, and no such block" in told["refused"]
    assert "evaluation.judge.key" in told["refused"]
    assert "Secret(value=...).save('nobody')" in told["refused"]
    assert "correct-horse" not in told["recipe"] + told["refused"]
