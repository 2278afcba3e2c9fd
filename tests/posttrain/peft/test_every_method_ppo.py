"""PPO with every method: only declared parameters change, the reference stays, the result is saved and loaded again."""

from __future__ import annotations

import pytest
import torch

from posttrain.data.packing import Example
from posttrain.models.policy import Policy
from posttrain.peft.methods import METHODS
from posttrain.peft.wrap import load_adapter, save_trained, trainable_state
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer
from posttrain.training.loop import train
from posttrain.training.ppo.actor_critic import remove_critic

CPU = torch.device("cpu")
NAMES = {"bottleneck": "bottleneck pfeiffer"}
CASES = [(method, kind) for kind in ("llama", "t5") for method in METHODS if (method, kind) != ("bitfit", "t5")]


@pytest.mark.parametrize("value_model", ["trunk", "adapter"])
@pytest.mark.parametrize(("method", "kind"), CASES, ids=lambda value: value)
def test_a_few_iterations(ppo_job, spec, tiny, random_examples, tmp_path, method, kind, value_model):
    chosen = spec(NAMES.get(method, method))
    job, _, reference = ppo_job(
        model=tiny(kind), method=chosen, iterations=2, rollouts=8, epochs=1, learning_rate=2e-2, max_new_tokens=4,
        value_model=value_model,
    )  # fmt: skip
    model = job.scorer.model
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    examples = random_examples([(5, 4), (3, 6)])
    plain = Scorer(model, CPU, layout=job.scorer.layout)
    at_start = score_branches(plain, examples, 10**6)
    train(job)
    changed = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed <= set(trainable_state(model))
    assert any("value_head" in name for name in changed)
    after = score_branches(plain, examples, 10**6)
    assert not torch.allclose(after, at_start, atol=1e-6)
    with reference.swapped():
        torch.testing.assert_close(score_branches(plain, examples, 10**6), at_start, atol=1e-6, rtol=0)
    assert remove_critic(model) > 0
    assert not [name for name, _ in model.named_parameters() if "value_head" in name]
    _saved_and_loaded(model, chosen, lambda: tiny(kind), examples, after, job.scorer.layout, tmp_path)


def _saved_and_loaded(model, chosen, build, examples: list[Example], expected, layout, folder) -> None:
    if chosen.method == "full":
        return  # a plain checkpoint, which the tests of the stage load
    save_trained(model, None, chosen, Policy(str(folder)), folder)
    loaded, _ = load_adapter(build(), folder / "adapter")
    torch.testing.assert_close(
        score_branches(Scorer(loaded.eval(), CPU, layout=layout), examples, 10**6), expected, atol=1e-5, rtol=0
    )
