"""The union of methods: every one by its name alone, with defaults that are allowed, and rules between two fields."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from schemas.peft import Peft

PEFT = TypeAdapter(Peft)
NAMES = [
    "full", "lora", "adalora", "vera", "oft", "loha", "lokr", "bottleneck", "prompt_tuning", "prefix_tuning", "p_tuning", "ia3",
    "ln_tuning", "bitfit", "last_layers",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_method_needs_its_name_alone(name):
    assert PEFT.validate_python({"method": name}).method == name


def test_these_are_all():
    with pytest.raises(ValidationError) as refused:
        PEFT.validate_python({"method": "qlora"})
    assert refused.value.errors()[0]["ctx"]["expected_tags"] == ", ".join(f"'{name}'" for name in NAMES)


def test_fields_of_one_method_are_no_fields_of_another():
    for name in NAMES:
        with pytest.raises(ValidationError, match="extra"):
            PEFT.validate_python({"method": name, "rank": 3})
    with pytest.raises(ValidationError, match="r\n"):
        PEFT.validate_python({"method": "bottleneck", "r": 3})


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"method": "lora", "use_dora": True, "init": "pissa"}, "init"),
        ({"method": "lora", "use_dora": True, "init": "olora"}, "init"),
        ({"method": "lora", "r": 5, "init": "orthogonal"}, "init"),
        ({"method": "lora", "target_modules": []}, "target_modules"),
        ({"method": "adalora", "init_r": 4, "target_r": 5}, "target_r"),
        ({"method": "adalora", "init_r": 4}, "target_r"),
        ({"method": "adalora", "warmup_share": 0.5, "final_share": 0.5}, "final_share"),
        ({"method": "adalora", "warmup_share": 0.8}, "final_share"),
        ({"method": "prompt_tuning", "init": "text"}, "text"),
        ({"method": "prompt_tuning", "text": "Answer briefly."}, "text"),
        ({"method": "prompt_tuning", "virtual_tokens": 0}, "virtual_tokens"),
        ({"method": "ia3", "feedforward_modules": ["fc2"]}, "feedforward_modules"),
        ({"method": "ia3", "target_modules": ["k_proj"], "feedforward_modules": ["fc2"]}, "feedforward_modules"),
        ({"method": "oft", "block_size": 1}, "block_size"),
        ({"method": "bottleneck", "variant": "serial"}, "variant"),
        ({"method": "last_layers", "layers": 0}, "layers"),
    ],
)
def test_what_has_no_meaning_is_refused_at_its_field(document, field):
    """Also where the field that is wrong is left at its default."""
    with pytest.raises(ValidationError) as refused:
        PEFT.validate_python(document)
    assert field in {part for error in refused.value.errors() for part in error["loc"]}


@pytest.mark.parametrize(
    "document",
    [
        {"method": "lora", "use_dora": True, "init": "gaussian"},
        {"method": "lora", "r": 6, "init": "orthogonal"},
        {"method": "adalora", "init_r": 8, "target_r": 8, "warmup_share": 0, "final_share": 0.9},
        {"method": "prompt_tuning", "init": "text", "text": "Answer briefly."},
        {"method": "ia3", "target_modules": ["k_proj", "fc2"], "feedforward_modules": ["fc2"]},
        {"method": "lora", "target_modules": ["q_proj"]},
    ],
)
def test_what_has_a_meaning_is_not(document):
    PEFT.validate_python(document)


def test_every_field_says_what_it_is():
    for member in Peft.__origin__.__args__:
        assert all(field.description for field in member.model_fields.values()), member.__name__
