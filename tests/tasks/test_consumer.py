"""What a consumer of the registered model gets, in a process that knows nothing of this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tasks.consumer import conversations

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("schemas", "posttrain", "tasks", "flows")

# Runs with -I: neither the current folder nor PYTHONPATH is searched.
CONSUMER = f"""
import json, sys
import mlflow, torch
from pathlib import Path

mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/tiny@champion")
import pandas
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

one = [{{"role": "user", "content": "Write a review of the Old Mill, a hotel."}}]
two = [{{"role": "user", "content": "Write a review of the Blue Pear, a cafe."}}]
short = {{"max_new_tokens": 6}}
said = {{
    "chat": model.predict(one, params=short),
    "again": model.predict(one, params=short),
    "list": model.predict([one, two], params=short),
    "frame": model.predict(pandas.DataFrame({{"messages": [one, two]}}), params=short),
    "prompts": model.predict([m[0]["content"] for m in (one, two)], params=short),
    "sampled": [model.predict(one, params={{**short, "temperature": 1.0, "seed": seed}})[0] for seed in (1, 1, 2, 3, 4)],
    "default": model.predict(one),
}}
folder = Path(mlflow.artifacts.download_artifacts("models:/tiny@champion")) / "artifacts"
tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoint")
ids = tokenizer("The soup was warm.", return_tensors="pt")["input_ids"]
base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
with torch.no_grad():
    plain = base(ids).logits.clone()
    adapted = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()(ids).logits
    merged = AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=torch.float32).eval()(ids).logits
    served = model.unwrap_python_model().model(ids).logits
json.dump({{
    "said": said,
    "adapter_to_checkpoint": float((adapted - merged).abs().max()),
    "served_to_checkpoint": float((served - merged).abs().max()),
    "adapter_to_base": float((adapted - plain).abs().max()),
    "imported": [name for name in {PROJECT!r} if name in sys.modules],
}}, sys.stdout)
"""


def consume(python: Path | str, finished, folder: Path) -> dict:
    """Run the consumer from another folder and check what it says."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
    done = subprocess.run(
        [str(python), "-I", "-c", CONSUMER, finished.report.model.tracking_uri],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env=clean | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_consumed(found: dict) -> None:
    """Answers are text, the same each time, and the same whatever the form of the question."""
    said = found["said"]
    assert found["imported"] == []
    assert all(isinstance(answer, str) for answers in said.values() for answer in answers)
    assert said["chat"] == said["again"] == said["list"][:1]
    assert len(said["list"]) == 2
    assert said["list"] == said["frame"] == said["prompts"]
    assert any(answer for answer in said["list"]), "every answer is empty"
    assert said["default"][0].startswith(said["chat"][0])
    assert len(said["default"][0]) >= len(said["chat"][0])
    assert said["sampled"][0] == said["sampled"][1]
    assert len(set(said["sampled"])) > 1
    assert found["served_to_checkpoint"] == 0
    assert found["adapter_to_checkpoint"] < 1e-4
    assert found["adapter_to_base"] > 1e-2  # the adapter does something, so the two lines above compare something


def test_a_consumer_without_this_project_loads_the_champion_and_talks_to_it(finished, tmp_path):
    assert_consumed(consume(sys.executable, finished, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_new_environment_with_four_packages_is_enough_to_consume(finished, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = ["mlflow", "torch", "transformers", "peft"]
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *packages], check=True, timeout=1500)
    assert_consumed(consume(python, finished, tmp_path))


USER = {"role": "user", "content": "a"}
CHAT = [USER, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (CHAT, [CHAT]),
        ([CHAT, [USER]], [CHAT, [USER]]),
        ("a", [[USER]]),
        (["a", "a"], [[USER], [USER]]),
        ({"messages": CHAT}, [CHAT]),
        ([{"messages": CHAT}, {"messages": [USER]}], [CHAT, [USER]]),
        ([], []),
    ],
)
def test_every_form_of_a_question_becomes_a_list_of_conversations(given, read):
    assert conversations(given) == read


def test_columns_of_a_data_frame_are_read_by_name_before_by_position():
    import pandas

    assert conversations(pandas.DataFrame({"id": [1], "prompt": ["a"]})) == [[USER]]
    assert conversations(pandas.DataFrame({"prompt": ["x"], "messages": [CHAT]})) == [CHAT]
    assert conversations(pandas.DataFrame({"anything": ["a"]})) == [[USER]]
