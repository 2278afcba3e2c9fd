"""A saved reward model in use: by itself, on a policy's weights in memory, on tokens and on texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from posttrain.checkpoints.load import load_model
from posttrain.data.encode import encode_response
from posttrain.models.policy import Policy
from posttrain.rewards.model import open_reward_model
from schemas.errors import Refusal

CPU = torch.device("cpu")
LORA = {"method": "lora", "r": 4}
METHODS = {
    "full": {"method": "full"},
    "lora": LORA,
    "lora pissa": {"method": "lora", "r": 4, "init": "pissa"},
    "lora dora": {"method": "lora", "r": 4, "use_dora": True},
    "adalora": {"method": "adalora", "init_r": 4, "target_r": 2},
    "vera": {"method": "vera", "r": 16},
    "oft": {"method": "oft", "block_size": 16},
    "loha": {"method": "loha", "r": 2},
    "lokr": {"method": "lokr", "r": 2},
    "bottleneck": {"method": "bottleneck", "reduction_factor": 4},
    "prompt_tuning": {"method": "prompt_tuning", "virtual_tokens": 5},
    "prefix_tuning": {"method": "prefix_tuning", "virtual_tokens": 5},
    "p_tuning": {"method": "p_tuning", "virtual_tokens": 5, "hidden_size": 16},
    "ia3": {"method": "ia3"},
    "ln_tuning": {"method": "ln_tuning"},
    "bitfit": {"method": "bitfit"},
    "last_layers": {"method": "last_layers", "layers": 1},
}


def tokens(count: int = 9) -> tuple[list, list]:
    """Prompts, some of which are equal, and responses, some of which end with EOS (token 0)."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(2, 300, 4 + i % 3).astype(np.int32) for i in range(4)]
    responses = [rng.integers(2, 300, 1 + 3 * i).astype(np.int32) for i in range(count)]
    ended = [np.append(response, np.int32(0)) if i % 2 else response for i, response in enumerate(responses)]
    return [prompts[i % 4] for i in range(count)], ended


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_equal_rewards_by_itself_and_on_the_policy_in_memory(trained_reward, checkpoint, name):
    """The policy's weights are used where they are, and neither they nor what it computes change."""
    folder = trained_reward(name, METHODS[name])
    policy = load_model(Policy(str(checkpoint)), CPU)
    before = {key: tensor.clone() for key, tensor in policy.state_dict().items()}
    alone, beside = open_reward_model(folder, CPU), open_reward_model(folder, CPU, base=policy)
    prompts, responses = tokens()
    found = beside(prompts, responses)
    assert torch.allclose(alone(prompts, responses), found, atol=1e-5)
    assert len(found.unique()) == len(found)
    storages = {p.data_ptr() for p in policy.parameters()}
    added = sum(p.numel() for p in beside.scorer.parameters() if p.data_ptr() not in storages)
    whole = sum(p.numel() for p in policy.parameters())
    assert added >= whole * 0.9 if name == "full" else added < whole / 2
    assert all(torch.equal(before[key], tensor) for key, tensor in policy.state_dict().items())
    assert not any(p.requires_grad for p in beside.scorer.parameters())


def test_a_batch_gives_what_each_response_gives_alone(trained_reward):
    model = open_reward_model(trained_reward("lora", LORA), CPU)
    prompts, responses = tokens()
    together = model(prompts, responses)
    assert "packed" in model.layout
    alone = torch.cat([model([prompt], [response]) for prompt, response in zip(prompts, responses, strict=True)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert together.dtype == torch.float32
    assert model([], []).shape == (0,)


def test_texts_give_what_their_tokens_give(trained_reward, tokenizer):
    model = open_reward_model(trained_reward("lora", LORA), CPU)
    said = [[{"role": "user", "content": "Write a review of the hotel."}], [{"role": "user", "content": "Hello!"}]]
    texts = ["The staff was kind.", ""]
    encoded = [encode_response(prompt, text, tokenizer, 10**6) for prompt, text in zip(said, texts, strict=True)]
    assert [e.branches[0][-1] for e in encoded] == [tokenizer.eos_token_id] * 2
    by_tokens = model([e.prompt for e in encoded], [e.branches[0] for e in encoded])
    assert torch.allclose(model.of_texts(said, texts), by_tokens, atol=1e-6)


def test_another_policy_in_memory_is_refused(trained_reward, tiny_llama, tokenizer):
    other = tiny_llama(len(tokenizer), seed=1)
    with pytest.raises(Refusal, match="on which it was trained"):
        open_reward_model(trained_reward("lora", LORA), CPU, base=other)


@pytest.mark.parametrize(("name", "place"), [("lora", ""), ("prompt_tuning", "base")])
def test_a_registered_one_whose_config_is_unsound_is_refused(trained_reward, tmp_path, name, place):
    """Whole, and as a base with what stays beside it."""
    folder = Path(shutil.copytree(trained_reward(name, METHODS[name]), tmp_path / "reward"))
    path = folder / place / "config.json"
    for changes, said in (
        ({"vocab_size": 9_000_000}, "sizes of a model of"),
        ({"hidden_size": "64"}, "hidden_size in config.json"),
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(Refusal, match=said):
            open_reward_model(folder, CPU)


def test_an_encoder_reads_texts_and_says_so(trained_reward):
    scratch = {"source": "scratch", "hidden_size": 32, "layers": 1, "heads": 2}
    model = open_reward_model(trained_reward("bert", {"method": "full"}, model=scratch), CPU)
    prompts, responses = tokens(2)
    with pytest.raises(TypeError, match="of_texts"):
        model(prompts, responses)
    assert model.of_texts([[{"role": "user", "content": "Hello!"}]], ["Kind."]).shape == (1,)


def test_a_prompt_beyond_a_models_positions_is_cut_from_the_left(trained_reward):
    """With room for twelve tokens only the last ones of the prompt are read."""
    model = open_reward_model(trained_reward("lora", LORA), CPU)
    (prompt, *_), (*_, response) = tokens(3)
    model.limit = len(response) + 2
    assert torch.allclose(model([prompt], [response]), model([prompt[-2:]], [response]), atol=1e-6)
