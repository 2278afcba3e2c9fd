"""Learning rates by method and size: the points of the table, between them, and what a recipe says itself."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from posttrain.peft.methods import METHODS
from posttrain.training.learning_rates import derived, settled
from schemas.peft import Peft
from schemas.training import DPO, SFT

POINTS = [
    ("dpo", "lora", 100_000_000, 5e-5), ("dpo", "lora", 7_000_000_000, 5e-6), ("dpo", "lora", 70_000_000_000, 5e-6),
    ("dpo", "full", 7_000_000_000, 5e-7), ("dpo", "lora", 1_000_000, 5e-4), ("dpo", "full", 1_000_000, 5e-4),
    ("sft", "lora", 135_000_000, 2e-4), ("sft", "lora", 13_000_000_000, 2e-4), ("sft", "lora", 65_000_000_000, 1e-4),
    ("sft", "full", 7_000_000_000, 2e-5), ("sft", "full", 1_000_000, 1e-3),
    ("reward", "lora", 500_000_000, 1e-4), ("reward", "full", 8_000_000_000, 1e-5),
    ("ppo", "lora", 1_000_000, 3e-4), ("ppo", "lora", 8_000_000_000, 1e-5),
    # Half-way between 100M and 7B in logarithms, sqrt(1e8 * 7e9) = 8.37e8: sqrt(5e-5 * 5e-6) = 1.58e-5.
    ("dpo", "lora", 836_660_000, 1.6e-5),
    # 5e-5 times 20 and 50: methods that train little.
    ("dpo", "bitfit", 100_000_000, 1e-3), ("dpo", "ln_tuning", 100_000_000, 2.5e-3), ("dpo", "last_layers", 7_000_000_000, 5e-7),
]  # fmt: skip


def method(name: str) -> Peft:
    return TypeAdapter(Peft).validate_python({"method": name})


@pytest.mark.parametrize(("stage", "name", "parameters", "rate"), POINTS)
def test_rates_by_hand(stage, name, parameters, rate):
    assert derived(stage, method(name), parameters) == rate


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward", "ppo"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_larger_models_never_have_larger_rates_and_every_rate_is_one(stage, name):
    rates = [derived(stage, method(name), 10**digits) for digits in range(5, 12)]
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] <= rates[0] <= 1


def test_a_rate_of_the_recipe_is_kept_and_no_model_is_counted():
    def never() -> int:
        raise AssertionError("counted")

    given = SFT(learning_rate=0.03)
    assert settled("sft", given, given.peft, never) is given
    open_ = DPO(algorithm="dpo")
    assert open_.learning_rate is None
    assert settled("dpo", open_, open_.peft, lambda: 135_000_000).learning_rate == pytest.approx(
        4.2e-5
    )  # 5e-5 / 1.35 ** (ln 10 / ln 70)
