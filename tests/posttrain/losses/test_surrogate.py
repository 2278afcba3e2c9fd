"""Surrogates and weights of tokens: values and gradients of verl's own functions, and of the same equations in plain Python.

`VERL` is what `verl.trainer.ppo.core_algos` of verl 0.9.1 returned on these four responses (`compute_policy_loss_vanilla`,
`_gspo`, `_cispo` with `agg_loss`): the loss, then its gradient in every log-probability.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.losses import ppo, surrogate

LENGTHS = [6, 3, 5, 1]
ADVANTAGES = [-0.8007490342, -0.0094714165, 0.8702840524, -0.8797230292]
OLD = [
    -0.8381412897, -0.8210811410, -2.5862788843, -1.9700652918, -2.7675881024, -2.5186361273, -0.8841363240, -1.6821647921,
    -2.2891302336, -0.5023218054, -0.1129012217, -0.3665695271, -2.5426307116, -0.0396142187, -0.3298076571,
]  # fmt: skip
NEW = [
    -1.4947161186, -0.9850812290, -3.2623631783, -1.0725115498, -2.6669881417, -1.3519477736, -0.9355274441, -1.8070271352,
    -1.6716388130, -0.3980245321, -0.9727124282, -0.0970961647, -3.6523239244, -0.2262224522, -0.4112285973,
]  # fmt: skip
REFERENCE = [
    -0.9671803471, -0.7192288657, -2.6879954743, -1.5346594701, -2.9817276914, -2.8426515285, -1.2113665209, -1.7060471471,
    -2.2641317680, -0.3547870049, -0.1871965740, -0.5506714850, -2.1882046698, -0.2807463131, -0.0251275024,
]  # fmt: skip
VERL = {
    "clip": [0.32271318, 0, 0.04530862, 0, 0.13098085, 0.05903304, 0.17143184, 0.0005998, 0.00055731, 0.00117084, -0.06439698,
             -0.02455605, 0, -0.01912653, -0.0481423, 0.05406224],
    "clip_high": [0.31637318, 0, 0.04530862, 0, 0.13098085, 0.05903304, 0.17143184, 0.0005998, 0.00055731, 0.00117084,
                  -0.06439698, -0.02455605, -0.07596273, -0.01912653, -0.0481423, 0.05406224],
    "dual_clip": [0.15874701, 0, 0.04530862, 0, 0, 0.05903304, 0, 0.0005998, 0.00055731, 0, -0.06439698, -0.02455605, 0,
                  -0.01912653, -0.0481423, 0.05406224],
    "sequence": [0.34386463, 0, 0.02831789, 0, 0.08186303, 0.03689565, 0.1071449, 0.00074975, 0.00069664, 0.00146355, -0.04829773,
                 -0.01841704, 0, -0.0143449, -0.03610673, 0.2027334],
    "constant": [0.12101744, 0, 0.01699073, 0, 0.04911782, 0.02213739, 0.06428694, 0.00022492, 0.00020899, 0.00043906,
                 -0.02414887, -0.00920852, 0, -0.00717245, -0.01805336, 0.02027334],
    "gspo": [0.2831157, *[0.03729494] * 6, *[0.00091434] * 3, *[-0.03046623] * 5, 0],
    "cispo": [-0.38786939, 0.02768588, 0.04530862, 0.02715098, 0.06939825, 0.05903304, 0.06939825, 0.0005998, 0.00055731,
              0.00082086, -0.06439698, -0.02455605, -0.07542462, -0.01912653, -0.0481423, 0.05406224],
}  # fmt: skip
# of verl's `kl_penalty_forward`: "kl", "mse", "low_var_kl"
VERL_DIVERGENCES = {
    "k1": [-0.52753577, -0.26585236, -0.5743677, 0.46214792, 0.31473955, 1.49070375, 0.27583908, -0.10097999, 0.59249295,
           -0.04323753, -0.78551585, 0.45357532, -1.46411925, 0.05452386, -0.38610109],
    "k2": [0.139147, 0.03533874, 0.16494913, 0.10679035, 0.04953049, 1.11109884, 0.0380436, 0.00509848, 0.17552395, 0.00093474,
           0.30851758, 0.10286529, 1.0718226, 0.00148643, 0.07453703],
    "k3": [0.16721513, 0.03869008, 0.20163951, 0.09207707, 0.04471852, 0.71591786, 0.03477413, 0.00527452, 0.14544005, 0.00094836,
           0.40802234, 0.08892782, 1.8596142, 0.00145977, 0.0851323],
}  # fmt: skip
BRANCH = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
EACH = torch.tensor(ADVANTAGES, dtype=torch.float64)[BRANCH]


def surrogate_of(name: str, new: torch.Tensor) -> torch.Tensor:
    ratios = new - torch.tensor(OLD, dtype=torch.float64)
    match name:
        case "cispo":
            return surrogate.cispo(new, ratios, EACH, 0.3)
        case "gspo":
            return surrogate.clipped(surrogate.of_responses(ratios, BRANCH, 4), EACH, 0.05, 0.1)
        case "clip_high":
            return surrogate.clipped(ratios, EACH, 0.2, 0.5)
        case "dual_clip":
            return surrogate.clipped(ratios, EACH, 0.2, 0.2, 1.3)
        case _:
            return surrogate.clipped(ratios, EACH, 0.2, 0.2)


@pytest.mark.parametrize("name", VERL)
def test_losses_and_gradients_are_verls(name):
    new = torch.tensor(NEW, dtype=torch.float64).requires_grad_()
    aggregation = {"sequence": "sequence", "gspo": "sequence", "constant": "constant"}.get(name, "token")
    weights, units = surrogate.shares(torch.tensor(LENGTHS), torch.ones(4, dtype=torch.bool), aggregation, 10)
    loss = (weights[BRANCH] * surrogate_of(name, new)).sum() / units.sum()
    loss.backward()
    assert [loss.item(), *new.grad.tolist()] == pytest.approx(VERL[name], abs=2e-7)


@pytest.mark.parametrize("name", VERL_DIVERGENCES)
def test_divergences_are_verls(name):
    found = ppo.DIVERGENCES[name](torch.tensor(NEW), torch.tensor(REFERENCE))
    assert found.tolist() == pytest.approx(VERL_DIVERGENCES[name], abs=1e-6)


def test_the_gradient_of_k2_is_the_divergences_and_k1_has_none_in_the_mean():
    """d/dθ Σ p log(p/q) of a softmax over three outcomes, each sampled in proportion to p."""
    theta, q = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64).requires_grad_(), torch.tensor([0.5, 0.3, 0.2]).double().log()
    logp = theta.log_softmax(0)
    p = logp.exp().detach()
    (exact,) = torch.autograd.grad((logp.exp() * (logp - q)).sum(), theta, retain_graph=True)
    (of_k2,) = torch.autograd.grad((p * ppo.k2(logp, q)).sum(), theta, retain_graph=True)
    (of_k1,) = torch.autograd.grad((p * ppo.k1(logp, q)).sum(), theta)
    torch.testing.assert_close(of_k2, exact)
    torch.testing.assert_close(of_k1, torch.zeros_like(of_k1))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), low=st.floats(0.05, 0.9), high=st.floats(0.05, 2.0),
    dual=st.one_of(st.none(), st.floats(1.1, 4.0)), sequence=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_the_clipped_surrogate_equals_its_equations_token_by_token(lengths, low, high, dual, sequence, seed):
    rng = np.random.default_rng(seed)
    ratios = [rng.normal(size=n) * 0.7 for n in lengths]
    advantages = rng.normal(size=len(lengths))
    expected = []
    for logs, a in zip(ratios, advantages, strict=True):
        for each in [float(np.mean(logs))] * len(logs) if sequence else logs:
            rho = math.exp(each)
            loss = max(-a * rho, -a * min(max(rho, 1 - low), 1 + high))
            expected.append(min(loss, -a * dual) if dual and a < 0 else loss)
    branch = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    given_ratios = torch.tensor(np.concatenate(ratios))
    of = surrogate.of_responses(given_ratios, branch, len(lengths)) if sequence else given_ratios
    assert surrogate.clipped(of, torch.tensor(advantages)[branch], low, high, dual).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("token", (2 * 3 + 4 * 1) / 6), ("sequence", (3 + 1) / 2), ("constant", (2 * 3 + 4 * 1) / 20)]
)
def test_a_step_is_a_mean_over_tokens_responses_or_a_constant(aggregation, expected):
    """Responses of 2 tokens with loss 3 and of 4 with loss 1; one of 5 tokens does not count. Constant: 2 responses of 10."""
    lengths, counts = torch.tensor([2, 4, 5]), torch.tensor([True, True, False])
    weights, units = surrogate.shares(lengths, counts, aggregation, 10)
    losses = torch.tensor([3.0, 1.0, 99.0])
    assert float((weights * lengths * losses).sum() / units.sum()) == pytest.approx(expected)


def test_a_ratio_beyond_fp32_has_a_finite_gradient_in_every_surrogate():
    logprobs = torch.zeros(2).requires_grad_()
    ratios, advantages = logprobs + 100, torch.tensor([1.0, -1.0])
    for losses in (surrogate.clipped(ratios, advantages, 0.2, 0.2, 3.0), surrogate.cispo(logprobs, ratios, advantages, 0.2)):
        (gradient,) = torch.autograd.grad(losses.sum(), logprobs, retain_graph=True)
        assert gradient.isfinite().all()
        assert losses.isfinite().all()
