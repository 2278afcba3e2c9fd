"""What holds for every method alike, on a Llama with grouped-query attention and on a T5."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from posttrain.checkpoints.load import merge_adapter
from posttrain.models.policy import Policy
from posttrain.peft.merge import is_plain, merge
from posttrain.peft.methods import METHODS
from posttrain.peft.soft_prompts import generate, padded_logits
from posttrain.peft.wrap import load_adapter, load_trainable, save_trained, trainable_state, wrap
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.reference import Reference
from posttrain.scoring.scorer import Scorer
from schemas.errors import Refusal

NAMES = [
    "lora", "lora rslora", "lora dora", "lora gaussian", "lora orthogonal", "lora pissa", "lora pissa_niter_16", "lora olora",
    "lora pissa rslora", "adalora", "vera", "oft", "oft exact", "loha", "lokr", "bottleneck pfeiffer", "bottleneck houlsby",
    "bottleneck parallel", "prompt_tuning", "prompt_tuning random", "prefix_tuning", "prefix_tuning random",
    "prefix_tuning projected", "p_tuning", "p_tuning lstm", "ia3", "ln_tuning", "bitfit", "last_layers", "last_layers head",
]  # fmt: skip
VARIANTS = {
    "lora rslora", "lora gaussian", "lora pissa_niter_16", "lora pissa rslora", "oft exact", "prompt_tuning random",
    "prefix_tuning random",
}  # fmt: skip
"""Differ from another name in numbers alone: tested on one architecture."""
CASES = [(name, kind) for name in NAMES for kind in ("llama", "t5") if kind == "llama" or name not in VARIANTS | {"bitfit"}]
"""T5 has no biases, so that BitFit is refused on it."""

# Words of the names of what a method trains; all other parameters stay as they are.
DECLARED = {
    "lora": ("lora_A", "lora_B", "lora_magnitude_vector"), "adalora": ("lora_A", "lora_B", "lora_E"), "vera": ("vera_lambda",),
    "oft": ("oft_R",), "loha": ("hada_",), "lokr": ("lokr_",), "bottleneck": (".bottleneck.",), "ia3": ("ia3_l",),
    "prompt_tuning": ("prompt_encoder",), "prefix_tuning": ("prompt_encoder",), "p_tuning": ("prompt_encoder",),
    "ln_tuning": ("ln_tuning_layers",), "bitfit": (".bias",),
    "last_layers": ("layers.1.", "decoder.block.1.", "model.norm.", "decoder.final_layer_norm.", "lm_head."),
}  # fmt: skip


@dataclass
class Run:
    """A model that was wrapped, trained for some steps and saved."""

    spec: Any
    build: Any
    model: Any
    started: torch.Tensor
    losses: list[float]
    unchanged: dict[str, torch.Tensor]
    trained: torch.Tensor
    reference: Reference
    folder: Path

    @property
    def method(self):
        return METHODS[self.spec.method]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]} {case[1]}".replace(" ", "-"))
def run(request, spec, tiny, train, logits, tmp_path_factory) -> Run:
    name, kind = request.param
    chosen, folder = spec(name), tmp_path_factory.mktemp("run")
    model = wrap(tiny(kind), chosen, 0, "sft.peft").eval()
    started, reference = logits(model), Reference(model)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    losses = train(model)
    save_trained(model, None, chosen, Policy(str(folder)), folder)
    return Run(chosen, lambda: tiny(kind), model, started, losses, before, logits(model), reference, folder / "adapter")


def test_training_starts_from_what_the_base_computes(run, logits):
    difference = (run.started - logits(run.build())).abs().max()
    assert (difference <= 1e-5) == run.method.starts_as_base


def test_the_loss_falls(run):
    assert run.losses[-1] < run.losses[0] - 1e-3
    assert run.started.shape == run.trained.shape


def test_only_the_declared_parameters_change(run):
    changed = {name for name, p in run.model.named_parameters() if not torch.equal(p, run.unchanged[name])}
    assert changed
    assert changed <= set(trainable_state(run.model))
    assert {name for name in changed if not any(word in name for word in DECLARED[run.spec.method])} == set()


def test_a_swap_restores_the_start_and_then_the_trained_weights(run, logits):
    with run.reference.swapped():
        assert torch.equal(logits(run.model), run.started)
    assert torch.equal(logits(run.model), run.trained)


def test_packing_is_exact_where_the_table_says_so(run, random_examples):
    if run.model.config.is_encoder_decoder or not run.method.packing:
        return
    examples = random_examples([(5, 4, 7), (9, 3, 2), (2, 6, 6)])
    assert choose_layout(Scorer(run.model, torch.device("cpu")), examples).layout == "packed"


def test_its_trainable_tensors_restore_it(run, logits):
    """As a training checkpoint does: the same wrapping, then the tensors."""
    again = wrap(run.build(), run.spec, 0, "sft.peft").eval()
    load_trainable(again, {name: tensor.detach() for name, tensor in trainable_state(run.model).items()})
    assert torch.equal(logits(again), run.trained)


def test_the_saved_adapter_on_a_fresh_base_computes_the_same(run, logits):
    loaded, _ = load_adapter(run.build(), run.folder)
    torch.testing.assert_close(logits(loaded.eval()), run.trained, atol=1e-5, rtol=1e-5)
    assert list(trainable_state(loaded)) == []


def test_what_peft_has_loads_with_peft_alone(run, logits):
    if not run.method.from_peft:
        assert not (run.folder / "adapter_config.json").exists()
        return
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(run.build(), run.folder).eval()), run.trained, atol=1e-5, rtol=1e-5
    )
    assert json.loads((run.folder / "adapter_config.json").read_text())["base_model_name_or_path"] == ""


def test_equal_training_is_saved_in_equal_bytes(run, tmp_path):
    save_trained(run.model, None, run.spec, Policy(str(tmp_path)), tmp_path)
    assert {p.name for p in run.folder.iterdir()} == {p.name for p in (tmp_path / "adapter").iterdir()}
    assert all((tmp_path / "adapter" / p.name).read_bytes() == p.read_bytes() for p in run.folder.iterdir())


def test_loading_a_policy_merges_where_that_is_exact_and_else_keeps_the_adapter(run, logits):
    policy = merge_adapter(run.build(), run.folder).eval()
    torch.testing.assert_close(logits(policy), run.trained, atol=1e-4, rtol=1e-5)
    assert is_plain(policy) == run.method.merges
    assert list(trainable_state(policy)) == []


def test_generation_follows_the_logits(run, logits):
    """Greedy tokens are the most likely ones under the logits of the sequence so far."""
    loaded = merge_adapter(run.build(), run.folder).eval()
    loaded.generation_config.eos_token_id = None
    ids = torch.tensor([[5, 6, 7, 8]])
    out = generate(loaded, ids, torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    seen, sofar = torch.ones_like(ids), out[:, :-1]
    inside = loaded.config.is_encoder_decoder
    rows = padded_logits(loaded, ids, seen, sofar) if inside else padded_logits(loaded, sofar, torch.ones_like(sofar))
    assert torch.equal(rows.argmax(-1)[0, -3:], out[0, -3:])


def test_a_trained_model_merges_or_says_why_not(run, logits):
    """Last of all, since it changes the model."""
    folds = getattr(run.spec, "variant", "") == "parallel" and run.model.config.model_type == "llama"  # with silu, as it has
    if run.method.merges or folds:
        merged = merge(run.model).eval()
        torch.testing.assert_close(logits(merged), run.trained, atol=1e-4, rtol=1e-5)
        assert is_plain(merged)
        return
    with pytest.raises(Refusal, match="cannot be merged: it adds computation") as refused:
        merge(run.model)
    assert run.spec.method in refused.value.where
    assert "lora" in refused.value.allowed
    assert torch.equal(logits(run.model), run.trained)


DPO_CASES = [case for case in CASES if case[0] in {"lora", *METHODS} or case[0] == "bottleneck houlsby"]
PROMPT, PAIR = torch.tensor([[5, 6, 7], [5, 6, 7]]), torch.tensor([[20, 21, 22], [30, 31, 32]])


@pytest.mark.parametrize(("name", "kind"), DPO_CASES)
def test_dpo_starts_at_ln_2_and_falls(spec, tiny, name, kind):
    """One pair; the reference is the policy with its first tensors swapped in. β = 1: -log(1 / 2) = ln 2 = 0.693147."""
    model = wrap(tiny(kind), spec(name), 0, "alignment.peft").eval()
    reference = Reference(model)

    def margin() -> torch.Tensor:
        """log p(chosen) - log p(rejected) after the prompt."""
        if model.config.is_encoder_decoder:
            decoder = torch.cat([torch.ones(2, 1, dtype=torch.long), PAIR[:, :-1]], 1)
            logits = padded_logits(model, PROMPT, torch.ones_like(PROMPT), decoder)
        else:
            rows = torch.cat([PROMPT, PAIR], 1)
            logits = padded_logits(model, rows, torch.ones_like(rows))[:, 2:-1]
        chosen, rejected = logits.log_softmax(-1).gather(2, PAIR[..., None]).sum((1, 2))
        return chosen - rejected

    with torch.no_grad(), reference.swapped():
        expected = margin()
    optimizer, losses = torch.optim.Adam(trainable_state(model).values(), lr=0.01), []
    for _ in range(4):
        loss = -torch.nn.functional.logsigmoid(margin() - expected)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses[-1] < losses[0] - 1e-3
    with torch.no_grad(), reference.swapped():
        assert torch.equal(margin(), expected)


def test_every_method_of_the_recipe_is_in_the_table_and_in_these_tests(spec):
    assert {spec(name).method for name in NAMES} | {"full"} == set(METHODS)
