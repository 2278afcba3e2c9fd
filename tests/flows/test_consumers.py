"""A version of every kind, in an environment that has its requirements and not this project: by pyfunc and over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from flows.server import free_port
from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.peft.methods import METHODS
from posttrain.peft.soft_prompts import generate, padded_logits
from posttrain.pipeline.chain import Chain
from posttrain.rewards.model import open_reward_model
from posttrain.runtime.store import Store
from schemas.load import load_recipe
from tests.tasks.served import serving, without_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
CPU = torch.device("cpu")
REWARD = "reward"
KINDS = (*METHODS, REWARD)
QUESTIONS = ["Write a review of the Old Mill, a hotel.", "Hello!"]
ANSWERED = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": "It was lovely."}]
ROUNDING = 1e-4  # of logits, where an adapter was merged
# A chat that one message makes impossible, and what the answer names; the reward model takes answered conversations alone.
MALFORMED = [
    ({"messages": []}, "conversation 0"),
    ({"messages": [{"content": "no role"}]}, "no role"),
    ({"messages": [{"role": "user"}]}, "no text"),
    ({"inputs": 7}, "type int"),
]
OF_CHATS = [
    ({"messages": [{"role": "user", "content": "a"}], "temperature": -1}, "temperature is -1"),
    ({"messages": [{"role": "user", "content": "a"}], "presence_penalty": 1}, "presence_penalty"),
    ({"messages": [{"role": "user", "content": "soup " * 3000}]}, "the model reads"),
]

# Loads each version, and its adapters on their base where the version has both forms; runs with -I.
CONSUMER = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import mlflow, torch
from safetensors.torch import save_file

mlflow.set_tracking_uri(sys.argv[1])
questions, answered, versions, out = json.loads(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4]), Path(sys.argv[5])
chats = [[{"role": "user", "content": question}] for question in questions]
short, said, logits = {"max_new_tokens": 8}, {}, {}
for kind, uri in versions.items():
    model = mlflow.pyfunc.load_model(uri)
    consumer = model.unwrap_python_model()
    if kind == "reward":
        said[kind] = model.predict(answered)
        continue
    said[kind] = model.predict(chats, params=short)
    forms = {kind: consumer}
    folder = Path(mlflow.artifacts.download_artifacts(uri)) / "artifacts"
    parts = {path.name: str(path) for path in folder.iterdir() if path.name == "base" or path.name.startswith("adapter")}
    if (folder / "checkpoint").is_dir() and len(parts) > 1:
        forms[kind + " unmerged"] = apart = type(consumer)()
        apart.load_context(SimpleNamespace(artifacts=parts))
    for name, form in forms.items():
        ids = form.encoded(chats[0])
        with torch.no_grad():
            logits[name] = form.model(input_ids=ids).logits[:, -ids.shape[1]:].contiguous()
save_file(logits, out / "logits.safetensors")
project = [name for name in ("schemas", "posttrain", "tasks", "flows", "prefect") if name in sys.modules]
(out / "said.json").write_text(json.dumps({"said": said, "imported": project, "python": sys.executable}))
"""


@pytest.fixture(scope="module")
def versions(finished, again, tmp_path_factory) -> SimpleNamespace:
    """A registry with a version for each method, registered by real runs, and one of a reward model: URIs and chains by kind."""
    store = Path(shutil.copytree(finished.store, tmp_path_factory.mktemp("versions") / "store"))
    uris, chains = {}, {}
    for method in METHODS:
        words = [f"alignment.peft={{method: {method}}}", "alignment.keep=last"]
        words += ["reward={epochs: 1, batch_size: 8, max_length: 256}", "registry.reward_model=judge"] if not uris else []
        run = again(store, *(word for each in words for word in ("--set", each)))
        assert run.process.returncode in (0, 3), run.process.stderr
        outputs = {stage.name: stage.outputs for stage in run.report.stages}
        uris[method] = f"models:/tiny/{outputs['register']['version']}"
        chains[method] = Chain(load_recipe(finished.recipe, words), Store(store))
        if "reward" in outputs:
            uris[REWARD], reward = outputs["register"]["reward_model"], Path(outputs["reward"]["reward"])
    tracking = f"sqlite:///{store / 'tracking' / 'mlflow.db'}"
    return SimpleNamespace(store=store, uris=uris, chains=chains, reward=reward, tracking=tracking)


@pytest.fixture(scope="module")
def environment(versions, client_of, tmp_path_factory) -> Path:
    """The programs of an environment with what the versions require, and nothing else; they all require the same."""
    folder, client = tmp_path_factory.mktemp("environment"), client_of(versions.store)
    named = set()
    for uri in versions.uris.values():
        place = client.get_model_version_download_uri(*uri.removeprefix("models:/").split("/"))
        named.add((Path(place.removeprefix("file://")) / "requirements.txt").read_text())
    assert len(named) == 1
    (folder / "requirements.txt").write_text(named.pop())
    venv.create(folder / "venv", with_pip=True)
    command = [folder / "venv" / "bin" / "python", "-m", "pip", "install", "-q", "-r", folder / "requirements.txt"]
    subprocess.run(command, check=True, timeout=1800)
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def consumed(versions, environment, tmp_path_factory) -> SimpleNamespace:
    """What a process of that environment was answered by each version, and the logits that it computed."""
    folder = tmp_path_factory.mktemp("consumed")
    given = (versions.tracking, *map(json.dumps, (QUESTIONS, ANSWERED, versions.uris)), str(folder))
    command = [str(environment / "python"), "-I", "-c", CONSUMER, *given]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200, env=without_project())
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(**json.loads((folder / "said.json").read_text()), logits=load_file(folder / "logits.safetensors"))


def test_nothing_of_this_project_was_there(consumed, environment):
    assert consumed.imported == []
    assert Path(consumed.python).parent == environment
    done = subprocess.run([environment / "python", "-I", "-c", "import posttrain"], capture_output=True, text=True)
    assert "No module named 'posttrain'" in done.stderr


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_its_logits_and_answers_are_those_of_what_was_trained(consumed, versions, method):
    """Of the merged form and of the adapters on their base; the base alone computes something else."""
    policy = versions.chains[method].policy_before("register")
    model, tokenizer = load_model(policy, CPU).eval(), load_tokenizer(policy)
    said = [[{"role": "user", "content": question}] for question in QUESTIONS]
    texts = [tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in said]
    asked = [torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]]) for text in texts]
    expected = padded_logits(model, asked[0], torch.ones_like(asked[0]))
    forms = {name: logits for name, logits in consumed.logits.items() if name.split(" ")[0] == method}
    assert len(forms) == (2 if METHODS[method].merges and method != "full" else 1)
    for name, found in forms.items():
        torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0, msg=lambda said, name=name: f"{name}: {said}")
    base = load_model(versions.chains[method].policy_before("align"), CPU).eval()(asked[0]).logits
    assert (base - expected).abs().max() > 10 * ROUNDING
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    new = [generate(model, ids, torch.ones_like(ids), max_new_tokens=8, do_sample=False, **ends) for ids in asked]
    answers = [tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) for out, ids in zip(new, asked, strict=True)]
    assert consumed.said[method] == answers


def test_a_reward_model_rewards_as_it_was_trained(consumed, versions):
    ours = open_reward_model(versions.reward, CPU).of_texts([ANSWERED[:1]], [ANSWERED[1]["content"]]).tolist()
    assert consumed.said[REWARD] == pytest.approx(ours, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_mlflows_server_answers_eight_at_once_and_refuses_in_one_sentence(consumed, versions, environment, tmp_path, kind):
    """As a person starts it in that environment: `mlflow models serve`, from an empty folder."""
    port, path = free_port(), f"{environment}:{os.environ['PATH']}"
    command = [environment / "mlflow", "models", "serve", "-m", versions.uris[kind], "-p", port, "--env-manager", "local"]
    asked = {"messages": ANSWERED} if kind == REWARD else {"messages": ANSWERED[:1], "max_tokens": 8}
    with (
        serving(command, port, tmp_path, PATH=path, MLFLOW_TRACKING_URI=versions.tracking) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        found = list(pool.map(lambda _: server.ask(**asked), range(8)))
        assert [status for status, _ in found] == [200] * 8, found
        assert [answer for _, answer in found] == [consumed.said[kind][:1]] * 8
        if kind != REWARD:
            drawn = list(pool.map(lambda seed: server.ask(**asked, temperature=1.0, seed=seed % 4)[1], range(8)))
            assert drawn[:4] == drawn[4:]
        for payload, told in MALFORMED + (OF_CHATS if kind != REWARD else []):
            status, answer = server.ask(**payload)
            assert status == 400, (payload, answer)
            assert "stack_trace" not in answer
            assert "Traceback" not in answer["message"]
            assert told in answer["message"]
