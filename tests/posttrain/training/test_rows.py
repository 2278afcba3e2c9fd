"""Training rows that encoding leaves out are counted, kept with their reasons, and refused where they are too many."""

from __future__ import annotations

import json

import polars as pl
import pytest

from posttrain.data.left_out import reasons_of, refuse_left_out
from posttrain.models.policy import Policy
from posttrain.training.dpo import dpo
from posttrain.training.ppo.stage import ppo
from posttrain.training.request import StageRequest
from posttrain.training.rows import FILE
from schemas.data import Checks
from schemas.errors import Refusal
from schemas.load import validate_recipe
from schemas.training import DPO


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pairs(train: int, long: int, held_out: int = 4) -> pl.DataFrame:
    """Training pairs, the first `long` of them with an answer that does not fit; held-out ones of two sources."""
    count = train + held_out
    columns = {
        "source": ["a.jsonl"] * train + ["b.jsonl", "c.jsonl"] * (held_out // 2),
        "row": list(range(1, count + 1)),
        "split": ["train"] * train + ["holdout"] * held_out,
        "prompt": [[{"role": "user", "content": f"Rate hotel {i}."}] for i in range(count)],
        "chosen": [assistant("Clean and kind. " * (40 if i < long else 1)) for i in range(count)],
        "rejected": [assistant(f"Bad{i}") for i in range(count)],
    }
    return pl.DataFrame(columns)


@pytest.fixture
def request_of(checkpoint, tmp_path):
    """Builds the request of a stage, with thresholds of the contract."""

    def build(**checks) -> StageRequest:
        document = {
            "name": "tiny",
            "model": {"source": "local", "path": str(checkpoint)},
            "data": {"preferences": "p", "checks": checks},
            "alignment": {"algorithm": "dpo"},
            "compute": {"device": "cpu", "dtype": "float32"},
        }
        (tmp_path / "out").mkdir(exist_ok=True)
        return StageRequest(
            stage="align", train="given by the test", recipe=validate_recipe(document, "test"), policy=Policy(str(checkpoint)),
            policy_digest="digest", rows=tmp_path / "rows", out=tmp_path / "out", cache=tmp_path / "cache",
        )  # fmt: skip

    return build


SPEC = {"algorithm": "dpo", "max_length": 64, "batch_size": 8}


def test_rows_are_examples_and_rows_left_out(request_of, lora):
    told = request_of()
    built = dpo(told, DPO(**SPEC, peft=lora()), pairs(train=6, long=1))
    numbers = built.metrics
    assert (numbers["rows"], numbers["examples"], numbers["left_out"], numbers["validation_rows"]) == (6, 5, 1, 4)
    written = json.loads((told.out / FILE).read_text())
    assert (written["data"], sum(written["reasons"].values())) == ("preferences", 1)
    assert list(written["reasons"]) == ["a completion of N tokens does not fit max_length 64 with a prompt"]
    assert written["validation"] == {"rows": 4, "held_out": 4, "examples": 4, "by_source": {"b.jsonl": 2, "c.jsonl": 2}}


def test_too_many_are_refused_before_a_step_is_trained(request_of, lora):
    told = request_of(max_drop_rate=0.3)
    with pytest.raises(Refusal, match=r"data\.preferences: found 2 of 6 training rows \(33%\) that alignment cannot encode"):
        dpo(told, DPO(**SPEC, peft=lora()), pairs(train=6, long=2))
    assert not (told.out / "curve.jsonl").exists()
    assert pl.read_parquet(told.out / "quarantine.parquet").height == 2


def test_the_same_share_may_be_waived(request_of, lora):
    told = request_of(max_drop_rate=0.3, waive=("max_drop_rate",))
    assert dpo(told, DPO(**SPEC, peft=lora()), pairs(6, 2)).metrics["left_out"] == 2


def test_prompts_that_the_template_refuses_count_with_ppo(request_of, checkpoint, ppo_section, tmp_path):
    """Two of six training prompts begin with a system message, which this template does not take."""
    template = tmp_path / "template.jinja"
    turns = "{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    template.write_text(refuses + turns + "{% if add_generation_prompt %}assistant:\n{% endif %}")
    said = [{"role": "system", "content": "Be kind."}]
    table = pairs(6, 0).with_columns(
        prompt=pl.Series([said * (i < 2) + [{"role": "user", "content": f"Rate {i}."}] for i in range(10)])
    )
    told = request_of()
    policy = Policy(str(checkpoint), chat_template=template.read_text())
    told = told.model_copy(update={"policy": policy})
    with pytest.raises(Refusal, match=r"2 of 6 training rows \(33%\) that alignment cannot encode"):
        ppo(told, ppo_section(), table)


def test_reasons_leave_out_how_long_a_row_is():
    """Two lengths are one reason."""
    left_out = [(0, "a completion of 70 tokens does not fit"), (3, "a completion of 1200 tokens does not fit"), (4, "other")]
    assert reasons_of(left_out) == {"a completion of N tokens does not fit": 2, "other": 1}


@pytest.mark.parametrize(("count", "refused"), [(20, False), (21, True)])
def test_the_limit_is_inclusive(count, refused):
    def call():
        refuse_left_out({"why": count}, 100, "data.instructions", "sft", Checks())

    if refused:
        with pytest.raises(
            Refusal, match=r"21 of 100 training rows \(21%\) that sft cannot encode \(why: 21\)\n  allowed: at most 20%"
        ):
            call()
    else:
        call()
