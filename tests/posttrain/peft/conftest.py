"""What the tests of the PEFT methods share: a tiny encoder-decoder, every method in small, and one way to train and to score."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from posttrain.peft.soft_prompts import padded_logits
from posttrain.peft.wrap import trainable_state
from schemas.peft import Peft

VOCABULARY = 97
IDS = torch.arange(2, 14).view(1, 12).repeat(2, 1)
ATTENDED = torch.ones_like(IDS)
ATTENDED[1, -4:] = 0
DECODER_IDS = torch.tensor([[1, 20, 21, 22, 23, 24], [1, 30, 31, 32, 33, 34]])

SPECS = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "r": 4, "alpha": 8},
    "lora rslora": {"method": "lora", "r": 4, "alpha": 4, "use_rslora": True},
    "lora dora": {"method": "lora", "r": 4, "alpha": 8, "use_dora": True},
    "lora gaussian": {"method": "lora", "r": 4, "alpha": 8, "init": "gaussian"},
    "lora orthogonal": {"method": "lora", "r": 4, "alpha": 8, "init": "orthogonal"},
    "lora pissa": {"method": "lora", "r": 4, "alpha": 8, "init": "pissa"},
    "lora pissa_niter_16": {"method": "lora", "r": 4, "alpha": 8, "init": "pissa_niter_16"},
    "lora olora": {"method": "lora", "r": 4, "alpha": 8, "init": "olora"},
    "lora pissa rslora": {"method": "lora", "r": 4, "alpha": 4, "init": "pissa", "use_rslora": True},
    "adalora": {"method": "adalora", "init_r": 4, "target_r": 2},
    "vera": {"method": "vera", "r": 16},
    "oft": {"method": "oft", "block_size": 16},
    "oft exact": {"method": "oft", "block_size": 8, "neumann": False},
    "loha": {"method": "loha", "r": 2},
    "lokr": {"method": "lokr", "r": 2},
    "bottleneck pfeiffer": {"method": "bottleneck", "reduction_factor": 4},
    "bottleneck houlsby": {"method": "bottleneck", "variant": "houlsby", "activation": "gelu"},
    "bottleneck parallel": {"method": "bottleneck", "variant": "parallel", "scale": 2, "activation": "silu"},
    "prompt_tuning": {"method": "prompt_tuning", "virtual_tokens": 5},
    "prompt_tuning random": {"method": "prompt_tuning", "virtual_tokens": 3, "init": "random"},
    "prefix_tuning": {"method": "prefix_tuning", "virtual_tokens": 5},
    "prefix_tuning random": {"method": "prefix_tuning", "virtual_tokens": 3, "init": "random"},
    "prefix_tuning projected": {"method": "prefix_tuning", "virtual_tokens": 5, "projection_size": 16},
    "p_tuning": {"method": "p_tuning", "virtual_tokens": 5, "hidden_size": 16},
    "p_tuning lstm": {"method": "p_tuning", "virtual_tokens": 5, "hidden_size": 16, "encoder": "lstm"},
    "ia3": {"method": "ia3"},
    "ln_tuning": {"method": "ln_tuning"},
    "bitfit": {"method": "bitfit"},
    "last_layers": {"method": "last_layers", "layers": 1},
    "last_layers head": {"method": "last_layers", "layers": 1, "norm": False, "head": True},
}


def spec_named(name: str, **changes) -> Peft:
    """A method of the table above as a recipe holds it."""
    return TypeAdapter(Peft).validate_python(SPECS[name] | changes)


def logits_of(model) -> torch.Tensor:
    """Logits of the shared input, whatever the architecture."""
    decoder = DECODER_IDS if model.config.is_encoder_decoder else None
    return padded_logits(model, IDS, ATTENDED, decoder)


def loss_of(model) -> torch.Tensor:
    """Mean cross-entropy of the next token of the shared input, padding left out."""
    inside = model.config.is_encoder_decoder
    targets = DECODER_IDS[:, 1:] if inside else IDS[:, 1:].masked_fill(ATTENDED[:, 1:] == 0, -100)
    logits = logits_of(model)[:, :-1]
    return torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1))


def train_steps(model, steps: int = 6, rate: float = 0.01) -> list[float]:
    """Plain gradient descent with Adam on the trainable tensors; the loss before each step and after the last."""
    optimizer, losses = torch.optim.Adam(trainable_state(model).values(), lr=rate), []
    for _ in range(steps):
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    with torch.no_grad():
        return [*losses, loss_of(model).item()]


@pytest.fixture(scope="session")
def spec():
    """Builds a method by its name in `SPECS`, with changes."""
    return spec_named


@pytest.fixture(scope="session")
def logits():
    """Computes the logits of the shared input."""
    return lambda model: logits_of(model).detach()


@pytest.fixture(scope="session")
def train():
    """Trains a model for a few steps."""
    return train_steps


@pytest.fixture(scope="session")
def tiny_t5():
    """Builds a T5 with tied embeddings, a gated feed-forward layer and heads that are narrower than width / heads."""

    def build(seed: int = 0, **changes) -> T5ForConditionalGeneration:
        torch.manual_seed(seed)
        shape = {"d_model": 32, "d_kv": 4, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}
        shape |= {"dropout_rate": 0.0, "feed_forward_proj": "gated-gelu", "initializer_factor": 0.5}
        shape |= {"decoder_start_token_id": 1, "pad_token_id": 1, "eos_token_id": 0}
        return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, **shape | changes)).eval()

    return build


@pytest.fixture(scope="session")
def tiny_gpt2():
    """Builds a GPT-2: linear layers stored transposed, biases everywhere."""

    def build(seed: int = 0, **changes) -> GPT2LMHeadModel:
        torch.manual_seed(seed)
        shape = {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "eos_token_id": 0,
            "bos_token_id": 0,
            "pad_token_id": 1,
        }
        shape |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.2}
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **shape | changes)).eval()

    return build


@pytest.fixture(scope="session")
def tiny(tiny_llama, tiny_t5, tiny_gpt2):
    """Builds the tiny model of an architecture by name."""
    return lambda name, **changes: {
        "llama": lambda **c: tiny_llama(initializer_range=0.1, **c), "t5": tiny_t5, "gpt2": tiny_gpt2,
    }[name](**changes)  # fmt: skip
