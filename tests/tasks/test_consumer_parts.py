"""A consumer of a version that cannot be merged, in a process that knows nothing of this project: base, adapters, text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
import torch
from pydantic import TypeAdapter

from posttrain.checkpoints.load import load_model, load_tokenizer, scratch_model
from posttrain.checkpoints.unmerged import write_parts
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.models.policy import Policy
from posttrain.peft.soft_prompts import generate
from posttrain.peft.wrap import save_trained, trainable_state, wrap
from schemas.model import ScratchModel
from schemas.peft import Peft
from tasks.consumer import ChatModel
from tasks.registry import consumer_of

CPU = torch.device("cpu")
TEXTS = [
    "User:\nWrite a review of the hotel.\n\nAssistant:\nThe hotel was clean and the staff was kind.",
    "Hello, world! 1, 2, 3.",
]
QUESTIONS = ["Write a review of the hotel.", "Hello!"]
# Architecture, and methods in the order of training.
CASES = {
    "prompt": ("llama", [{"method": "prompt_tuning", "virtual_tokens": 5}]),
    "prefix": ("llama", [{"method": "prefix_tuning", "virtual_tokens": 5}]),
    "p-tuning": ("llama", [{"method": "p_tuning", "virtual_tokens": 5, "hidden_size": 16}]),
    "prompt-gpt2": ("gpt2", [{"method": "prompt_tuning", "virtual_tokens": 5}]),
    "prefix-t5": ("t5", [{"method": "prefix_tuning", "virtual_tokens": 5}]),
    "prompt-t5": ("t5", [{"method": "prompt_tuning", "virtual_tokens": 5}]),
    "bottleneck": ("llama", [{"method": "bottleneck", "variant": "houlsby"}]),
    "bottleneck-t5": ("t5", [{"method": "bottleneck"}]),
    "bottleneck-lora": ("llama", [{"method": "bottleneck"}, {"method": "lora", "r": 4, "alpha": 8}]),
    "bottleneck-prompt": ("llama", [{"method": "bottleneck"}, {"method": "prompt_tuning", "virtual_tokens": 5}]),
}  # fmt: skip

CONSUMER = """
import json, sys
import mlflow
from pathlib import Path

found = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = mlflow.pyfunc.load_model(str(folder))
    chats = [[{"role": "user", "content": question}] for question in json.loads(sys.argv[2])]
    found[folder.name] = model.predict(chats, params={"max_new_tokens": 8})
    sampled = [model.predict(chats[0], params={"max_new_tokens": 8, "temperature": 2.0, "seed": n})[0] for n in (1, 1, 2, 3)]
    assert sampled[0] == sampled[1] and len(set(sampled)) > 1, (folder, sampled)
project = [name for name in ("schemas", "posttrain", "tasks", "flows") if name in sys.modules]
print(json.dumps({"answers": found, "imported": project}))
"""


def trained(kind: str, sections: list[dict], folder: Path) -> Policy:
    """A model from scratch with one adapter after the other on it, of random numbers large enough to change what it says."""
    tokenizer = prepare_tokenizer(train_tokenizer(TEXTS * 3, 320))
    shape = {"hidden_size": 32, "layers": 2, "heads": 4}
    base = scratch_model(ScratchModel(source="scratch", architecture=kind, **shape), tokenizer, seed=0)
    for parameter in (p for p in base.parameters() if p.dim() > 1):  # a new model repeats its last token, whatever is added to it
        torch.nn.init.normal_(parameter, std=0.3)
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    policy = Policy(str(folder / "base"))
    for stage, section in enumerate(sections):
        spec = TypeAdapter(Peft).validate_python(section)
        model = wrap(load_model(policy, CPU), spec, stage, "sft.peft")
        for parameter in trainable_state(model).values():
            torch.nn.init.normal_(parameter, std=0.5)
        save_trained(model, tokenizer, spec, policy, folder / str(stage))
        policy = Policy(policy.base, adapters=(*policy.adapters, folder / str(stage) / "adapter"))
    return policy


def answers(policy: Policy) -> list[str]:
    """What the policy says by greedy decoding as evaluation does it."""
    model, tokenizer, found = load_model(policy, CPU).eval(), load_tokenizer(policy), []
    for question in QUESTIONS:
        chat = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        out = generate(model, ids, torch.ones_like(ids), max_new_tokens=8, do_sample=False, **ends)
        found.append(tokenizer.decode(out[0, 0 if model.config.is_encoder_decoder else ids.shape[1] :], skip_special_tokens=True))
    return found


@pytest.fixture(scope="module")
def policies(tmp_path_factory) -> dict[str, Policy]:
    return {name: trained(kind, sections, tmp_path_factory.mktemp(name)) for name, (kind, sections) in CASES.items()}


def parts_of(policy: Policy, folder: Path) -> dict[str, str]:
    """The policy as an export lays it out; returns its folders."""
    adapters = write_parts(load_model(policy, CPU), policy, folder)
    load_tokenizer(policy).save_pretrained(folder / "base")
    return {part: part for part in ("base", *adapters)}


@pytest.mark.parametrize("name", ["prompt", "prefix-t5", "bottleneck-lora"])
def test_the_consumer_loads_a_base_with_its_adapters(policies, tmp_path, name):
    context = SimpleNamespace(artifacts={part: str(tmp_path / part) for part in parts_of(policies[name], tmp_path)})
    consumer = ChatModel()
    consumer.load_context(context)
    assert consumer.predict(context, QUESTIONS, {"max_new_tokens": 8}) == answers(policies[name])


@pytest.mark.parametrize("name", ["prompt", "prefix", "bottleneck"])
def test_eight_at_once_say_what_each_says_alone(policies, tmp_path, name):
    """A server asks from several threads, and peft changes a model with a soft prompt for as long as it writes."""
    context = SimpleNamespace(artifacts={part: str(tmp_path / part) for part in parts_of(policies[name], tmp_path)})
    consumer = ChatModel()
    consumer.load_context(context)
    asked = [f"{QUESTIONS[0]} {number}" for number in range(8)]
    alone = [consumer.predict(context, [question], {"max_new_tokens": 12}) for question in asked]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda question: consumer.predict(context, [question], {"max_new_tokens": 12}), asked)) == alone


@pytest.mark.slow
def test_the_consumer_says_what_the_policy_says_without_this_project(policies, tmp_path):
    """One process for all, since its imports take most of the time."""
    for name, policy in policies.items():
        folder = tmp_path / "parts" / name
        mlflow.pyfunc.save_model(tmp_path / "saved" / name, **consumer_of(folder, parts_of(policy, folder)))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-I", "-c", CONSUMER, str(tmp_path / "saved"), json.dumps(QUESTIONS)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, env=clean | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["imported"] == []
    assert found["answers"] == {name: answers(policy) for name, policy in policies.items()}


def test_these_adapters_change_what_is_said(policies):
    """Else the tests above would compare a base with itself."""
    for policy in policies.values():
        assert answers(policy) != answers(Policy(policy.base))
