"""Every mistake in a recipe becomes one refusal that names the field, what stands there, what may stand there and what to do.

Expected places and words are written by hand from the recipe's definition in `schemas/`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from schemas.errors import Refusal
from schemas.load import apply_overrides, load_recipe, validate_recipe

GOOD = """
name: test
model: {source: scratch, hidden_size: 64, heads: 4, kv_heads: 2}
data: {corpus: c.jsonl, instructions: i.jsonl, preferences: p.jsonl}
pretrain: {tokens: 1000}
sft: {epochs: 1}
alignment: {algorithm: dpo, peft: {method: lora}}
registry: {model: test}
"""

# --set words that break the good recipe, where the refusal points, and words of `found`, `allowed` and `remedy`.
BROKEN: list[tuple[str, str, str, str, str]] = [
    # A name that no field has, at each depth.
    ("nme=x", "nme", "unknown field ('x')", "pretrain, sft", "did you mean name?"),
    ("sft.epoch=1", "sft.epoch", "unknown field (1)", "epochs", "did you mean epochs?"),
    ("alignment.lable_smoothing=0", "alignment.lable_smoothing", "unknown", "label_smoothing", "did you mean label_smoothing?"),
    ("alignment.peft.alhpa=1", "alignment.peft.alhpa", "unknown", "alpha", "did you mean alpha?"),
    ("evaluation.gates.win_rate_vs_base.mni=1", "evaluation.gates.win_rate_vs_base.mni", "unknown", "lower_bound_above", "min?"),
    ("filtering.rules.word={}", "filtering.rules.word", "unknown", "mean_word_length", "did you mean words?"),
    ("zzzzzz=1", "zzzzzz", "unknown field (1)", "alignment", "remove it"),
    ("sft.peft={method: full, r: 4}", "sft.peft.r", "unknown field (4)", "fields: method", "remove it"),
    # A value outside its range or of another type.
    ("sft.learning_rate=-1", "sft.learning_rate", "-1", "greater than 0", "correct"),
    ("sft.learning_rate=.nan", "sft.learning_rate", "nan", "finite", "correct"),
    ("sft.batch_size=on", "sft.batch_size", "True", "a number, which a truth value is not", "correct"),
    ("seed=yes", "seed", "True", "truth value", "correct"),
    ("evaluation.gates.kl_per_token.max=true", "evaluation.gates.kl_per_token.max", "True", "truth value", "correct"),
    ("alignment.beta=0", "alignment.beta", "0", "greater than 0", "correct"),
    ("alignment.label_smoothing=0.5", "alignment.label_smoothing", "0.5", "less than 0.5", "correct"),
    ("alignment.loss=dpo", "alignment.loss", "'dpo'", "'kto_pair'", "correct"),
    ("alignment.simpo_gamma=-1", "alignment.simpo_gamma", "-1", "equal to 0", "correct"),
    ("alignment.sft_weight=-1", "alignment.sft_weight", "-1", "equal to 0", "correct"),
    ("alignment.overlong=cut", "alignment.overlong", "'cut'", "'truncate'", "correct"),
    ("sft.overlong=keep", "sft.overlong", "'keep'", "'quarantine'", "correct"),
    ("sft.z_loss=-1", "sft.z_loss", "-1", "equal to 0", "correct"),
    ("pretrain.z_loss=-1", "pretrain.z_loss", "-1", "equal to 0", "correct"),
    ("sft.neftune_alpha=0", "sft.neftune_alpha", "0", "greater than 0", "correct"),
    ("pretrain.neftune_alpha=5", "pretrain.neftune_alpha", "unknown field (5)", "z_loss", "remove it"),
    ("alignment.batch_size=0", "alignment.batch_size", "0", "equal to 1", "correct"),
    ("seed=4294967296", "seed", "4294967296", "less than 4294967296", "correct"),
    ("seed=1.5", "seed", "1.5", "integer", "correct"),
    ("pretrain.tokens=many", "pretrain.tokens", "'many'", "integer", "correct"),
    ("name=two words", "name", "'two words'", "pattern", "correct"),
    ("data.holdout=1", "data.holdout", "1", "less than 1", "correct"),
    ("data.checks.waive=[lenght]", "data.checks.waive", "'lenght'", "length_bias", "correct"),
    ("filtering.rules.words={min: 5, max: 1}", "filtering.rules.words", "'min': 5", "min 5.0 is above max 1.0", "correct"),
    ("evaluation.judge.name=sentiment", "evaluation.judge.name", "'sentiment'", "pattern", "correct"),
    ("sft.max_length=9999", "sft.max_length", "9999 with model.max_length", "at most", "raise model.max_length"),
    ("alignment.max_length=9999", "alignment.max_length", "9999 with model.max_length", "at most", "raise model.max_length"),
    ("evaluation.max_new_tokens=2047", "evaluation.max_new_tokens", "model.max_length 2048", "2046", "raise model.max_length"),
    ("model.max_length=255", "pretrain.context", "256 with model.max_length 255", "at most 255", "raise model.max_length"),
    ("compute.device=tpu", "compute.device", "'tpu'", "'cuda'", "correct"),
    ("alignment=dpo", "alignment", "'dpo'", "dictionary", "correct"),
    ("alignment.peft.target_modules=all", "alignment.peft.target_modules", "'all'", "all-linear", "correct"),
    ("alignment.peft={method: prompt_tuning, init: text}", "alignment.peft.text", "None", "a text with init text", "correct"),
    ("alignment.peft={method: adalora, init_r: 4}", "alignment.peft.target_r", "8", "at most init_r, 4", "correct"),
    ("sft.peft={method: lora, use_dora: true, init: pissa}", "sft.peft.init", "'pissa'", "gaussian with use_dora", "correct"),
    ("sft.peft={method: bottleneck, size: 4}", "sft.peft.size", "unknown field (4)", "reduction_factor", "remove it"),
    ("sft.peft={method: last_layers, layers: 0}", "sft.peft.layers", "0", "equal to 1", "correct"),
    ("compute.num_processes=0", "compute.num_processes", "0", "equal to 1", "correct"),
    ("compute.strategy=fsdp", "compute.strategy", "'fsdp'", "'fsdp2'", "correct"),
    ("compute.dtype=half", "compute.dtype", "'half'", "'float16'", "correct"),
    ("sft.adam_beta1=1", "sft.adam_beta1", "1", "less than 1", "correct"),
    ("sft.adam_beta2=-0.1", "sft.adam_beta2", "-0.1", "equal to 0", "correct"),
    ("sft.validations=0", "sft.validations", "0", "equal to 1", "correct"),
    ("sft.keep=first", "sft.keep", "'first'", "'last' or 'best'", "correct"),
    ("sft.early_stop={patience: 0}", "sft.early_stop.patience", "0", "equal to 1", "correct"),
    ("sft.early_stop={min_delta: -1}", "sft.early_stop.min_delta", "-1", "equal to 0", "correct"),
    ("sft.early_stop=3", "sft.early_stop", "3", "EarlyStop", "correct"),
    ("sft.gradient_checkpointing=maybe", "sft.gradient_checkpointing", "'maybe'", "boolean", "correct"),
    ("model={source: hub, name: a/b, quantization: int4}", "model.quantization", "'int4'", "'nf4' or 'int8'", "correct"),
    ("model={source: gguf, path: a, quantization: int8}", "model.quantization", "unknown field ('int8')", "path", "remove it"),
    # A kind that does not exist, or none.
    ("alignment.algorithm=grpo", "alignment.algorithm", "'grpo'", "'dpo', 'ppo', 'none'", "choose one of these"),
    ("model.source=ggml", "model.source", "'ggml'", "'hub', 'local', 'gguf', 'registry'", "choose one of these"),
    ("model.architecture=bert", "model.architecture", "'bert'", "'llama', 'gpt2' or 't5'", "correct"),
    ("model={source: registry, uri: assistant}", "model.uri", "'assistant'", "pattern", "correct"),
    ("model={source: registry, uri: 'models:/a/newest'}", "model.uri", "'models:/a/newest'", "pattern", "correct"),
    ("alignment.peft.method=qlora", "alignment.peft.method", "'qlora'", "'full', 'lora'", "choose one of these"),
    ("sft.peft={}", "sft.peft.method", "nothing", "kind", "name the kind in this field"),
    # A section or field that is required.
    ("model={source: hub}", "model.name", "nothing", "required", "add the field"),
    ("model={source: gguf}", "model.path", "nothing", "required", "add the field"),
    ("pretrain={}", "pretrain.tokens", "nothing", "required", "add the field"),
    ("data=null", "data", "None", "Data", "correct"),
    # Rules between fields.
    ("model.heads=3", "model.heads", "3 with hidden_size 64", "divisor of hidden_size", "divides 64"),
    ("model.kv_heads=3", "model.kv_heads", "3 with heads 4", "divisor of heads", "divides 4"),
    ("model.architecture=gpt2", "model.kv_heads", "2 with architecture gpt2", "null", "remove kv_heads"),
    ("model={source: scratch, architecture: t5, rope_theta: 9}", "model.rope_theta", "9.0 with architecture t5", "null", "llama"),
    ("model={source: scratch, architecture: t5, tie_embeddings: false}", "model.tie_embeddings", "false", "true", "remove"),
    ("pretrain=null", "pretrain", "model.source scratch", "pretrain section", "source hub or local"),
    ("data.corpus=null", "data.corpus", "null", "stage pretrain reads it", "set data.corpus"),
    ("data.instructions=null", "data.instructions", "null", "stage sft reads it", "set data.instructions"),
    ("data.preferences=null", "data.preferences", "null", "stage align reads it", "set data.preferences"),
    ("alignment.loss=robust", "alignment.label_smoothing", "nothing with loss robust", "a value, which robust needs", "sigmoid"),
    ("alignment.loss=simpo", "alignment.simpo_gamma", "nothing with loss simpo", "a value, which simpo needs", "0.3 to 1.6"),
    ("alignment.simpo_gamma=0", "alignment.simpo_gamma", "0.0 with loss sigmoid", "null, or loss simpo", "remove simpo_gamma"),
    (
        "evaluation.gates.validation_loss_falls.lower_bound_above=0",
        "evaluation.gates.validation_loss_falls.lower_bound_above",
        "a bound on an interval",
        "no interval",
        "use min",
    ),
    ("evaluation.judge={source: function}", "evaluation.judge.name", "nothing", "required", "add the field"),
    ("compute={device: cpu, dtype: float16}", "compute.dtype", "float16 with device cpu", "float32", "dtype=auto"),
    ("compute={dtype: float16, num_processes: 2, strategy: fsdp2}", "compute.dtype", "with strategy fsdp2", "ddp", "bfloat16"),
    ("model={source: hub, name: a/b, quantization: int8}", "pretrain", "section with model.quantization int8", "null", "change"),
    # A word that sets nothing.
    ("alignment.beta", "--set alignment.beta", "no field=value", "a dotted field", "--set alignment.beta=0.3"),
    ("=3", "--set =3", "no field=value", "a dotted field", "for example"),
    ("sft..epochs=3", "--set sft..epochs=3", "no field=value", "a dotted field", "for example"),
    ("seed.of.chance=3", "--set seed.of.chance", "seed holds 0", "a section", "set seed itself"),
    ("seed=[1", "--set seed=[1", "expected", "YAML", "value"),
]


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """The good recipe as a file."""
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD + "seed: 0\n", encoding="utf-8")
    return path


def refusal_of(path: Path, *overrides: str) -> Refusal:
    """What `load_recipe` answers to a recipe that it must not take."""
    with pytest.raises(Refusal) as caught:
        load_recipe(path, overrides)
    return caught.value


def test_the_unbroken_recipe_loads(recipe_file):
    """The rows below break this recipe: had it a mistake of its own, they would prove nothing."""
    assert load_recipe(recipe_file).name == "test"


@pytest.mark.parametrize(("word", "where", "found", "allowed", "remedy"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_broken_field_is_named(recipe_file, word, where, found, allowed, remedy):
    refusal = refusal_of(recipe_file, word)
    assert refusal.where == where
    assert found in refusal.found
    assert allowed in refusal.allowed
    assert remedy in refusal.remedy
    assert all((refusal.found, refusal.allowed, refusal.remedy))


RATIO, FALLS = "perplexity_ratio_vs_base", "validation_loss_falls"
ANSWERS = {"distinct_2", "drift_languages", "drift_lengths", "drift_sources", "eos_share", "judge_agreement", "mean_reward"}
PAIRS = {"preference_accuracy", "preference_accuracy_length_controlled", "calibration_error"}
KINDS = ("win_rate", "length_controlled_win_rate", "worst_source_win_rate", "length_ratio")
BASE, SFT = ({f"{kind}_vs_{name}" for kind in KINDS} for name in ("base", "sft"))


@pytest.mark.parametrize(
    ("words", "metric", "measured"),
    [
        # Without sft the candidate is compared with its base alone.
        (["sft=null"], "win_rate_vs_sft", {"kl_per_token", RATIO, FALLS, *PAIRS, *BASE}),
        # Without alignment the candidate is the SFT model itself, and there is no reference and no implicit reward.
        (["alignment={algorithm: none}"], "win_rate_vs_sft", {RATIO, FALLS, *BASE}),
        (["alignment={algorithm: none}"], "kl_per_token", {RATIO, FALLS, *BASE}),
        # After pretraining alone the candidate is the base, and nothing is left to compare it with.
        (["sft=null", "alignment={algorithm: none}"], RATIO, {FALLS}),
        # PPO has no held-out loss.
        (
            ["alignment={algorithm: ppo, reward: {source: function, name: 'm:f'}}"],
            FALLS,
            {"kl_per_token", RATIO, *PAIRS, *BASE, *SFT},
        ),
    ],
)
def test_a_gate_on_a_metric_that_is_not_measured_is_refused(recipe_file, words, metric, measured):
    refusal = refusal_of(recipe_file, f"evaluation.gates.{metric}.max=1", "evaluation.judge={name: 'm:f'}", *words)
    assert (refusal.where, refusal.found) == (f"evaluation.gates.{metric}", metric)
    assert refusal.allowed == f"metrics that this recipe measures: {', '.join(sorted(measured | ANSWERS))}"
    assert "add the stage" in refusal.remedy


@pytest.mark.parametrize("word", ["evaluation.gates.win_rate_vs_sft.min=0.5", "registry.promote_on=win_rate_vs_sft"])
def test_a_win_rate_without_a_judge_is_refused_and_a_judge_is_the_remedy(recipe_file, word):
    refusal = refusal_of(recipe_file, word)
    assert refusal.found == "win_rate_vs_sft"
    assert refusal.remedy == "set evaluation.judge: a function, a reward model or an endpoint"
    assert load_recipe(recipe_file, [word, "evaluation.judge={name: 'm:f'}"])


def test_promotion_on_a_metric_that_is_not_measured_is_refused(recipe_file):
    refusal = refusal_of(recipe_file, "registry.promote_on=win_rate_vs_sft", "sft=null")
    assert (refusal.where, refusal.found) == ("registry.promote_on", "win_rate_vs_sft")


@pytest.mark.parametrize("field", ["name", "model", "data"])
def test_a_missing_field_is_named(field):
    document = {key: value for key, value in yaml.safe_load(GOOD).items() if key != field}
    with pytest.raises(Refusal) as caught:
        validate_recipe(document, "recipe.yaml")
    assert (caught.value.where, caught.value.found, caught.value.remedy) == (field, "nothing", "add the field")


# Bytes of a file, what follows its path in `where`, and words of `found`, `allowed` and `remedy`.
UNREADABLE = {
    "broken YAML, line 3": (b"name: x\nseed: [1\n", ":3", "expected", "valid YAML", "line"),
    "a tab for indent, line 2": (b"model:\n\tsource: hub\n", ":2", "cannot start any token", "valid YAML", "line"),
    "Latin-1, byte 6": (b"name: \xe9t\xe9", ": byte 6", "not UTF-8", "UTF-8", "save the file as UTF-8"),
    "a list": (b"- name: x\n", "", "list", "a mapping", "quickstart.yaml"),
    "a sentence": (b"please train a model\n", "", "str", "a mapping", "quickstart.yaml"),
    "nothing": (b"", "", "NoneType", "a mapping", "quickstart.yaml"),
}


@pytest.mark.parametrize(("content", "place", "found", "allowed", "remedy"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_file_is_refused(tmp_path, content, place, found, allowed, remedy):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    refusal = refusal_of(path)
    assert refusal.where == f"{path}{place}"
    assert found in refusal.found
    assert allowed in refusal.allowed
    assert remedy in refusal.remedy


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_missing_file_or_a_folder_is_refused(tmp_path, name):
    refusal = refusal_of(tmp_path / name)
    assert refusal.where == str(tmp_path / name)
    assert refusal.found == "no such file"
    assert "deployments/recipes" in refusal.remedy


def test_overrides_are_read_as_yaml_and_the_last_one_wins():
    """Numbers, null, text and sections keep their types; a missing section is made."""
    words = ["a.b=1", "a.c=1.5", "d=null", "e=text", "f={g: [1, 2]}", "a.b=2", "url=x=y"]
    expected = {"a": {"b": 2, "c": 1.5}, "d": None, "e": "text", "f": {"g": [1, 2]}, "url": "x=y"}
    assert apply_overrides({"a": {"b": 0}, "d": 3}, words) == expected


def test_an_override_fills_a_section_that_is_null():
    assert apply_overrides({"sft": None}, ["sft.epochs=3"]) == {"sft": {"epochs": 3}}


def test_an_override_reaches_the_recipe(recipe_file):
    recipe = load_recipe(recipe_file, ["alignment.beta=0.3", "sft=null", "compute.log_every=1"])
    assert (recipe.alignment.beta, recipe.sft, recipe.compute.log_every) == (0.3, None, 1)


def test_another_kind_takes_away_what_only_the_old_kind_has():
    """`r` and `alpha` are LoRA's and LoHa's; a bottleneck has neither, nor has NoAlignment a `beta`."""

    def section(kind: str, *words: str) -> dict:
        document = {"alignment": {"algorithm": "dpo", "beta": 0.1, "peft": {"method": "lora", "r": 4, "alpha": 8}}}
        return apply_overrides(document, [f"alignment.{kind}", *words])["alignment"]

    assert section("peft.method=loha")["peft"] == {"method": "loha", "r": 4, "alpha": 8}
    assert section("peft.method=bottleneck")["peft"] == {"method": "bottleneck"}
    assert section("peft.method=bottleneck", "alignment.peft.scale=2")["peft"] == {"method": "bottleneck", "scale": 2}
    assert section("algorithm=none") == {"algorithm": "none"}


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["alignment.peft.r=4", "alignment.peft.method=bottleneck"], "alignment.peft.r"),  # asked for: not ignored
        (["alignment.peft.rr=4", "alignment.peft.method=bottleneck"], "alignment.peft.rr"),
        (["alignment.peft={method: lora, rr: 4}", "alignment.peft.method=bottleneck"], "alignment.peft.rr"),  # nobody's field
        (["alignment.peft.method=bottle"], "alignment.peft.method"),
    ],
)
def test_another_kind_hides_no_mistake(recipe_file, words, where):
    assert refusal_of(recipe_file, *words).where == where


@pytest.mark.parametrize(
    ("word", "where"),
    [("alignment.beta=0.1", None), ("compute.num_processes=2", "compute.num_processes"),
     ("alignment={algorithm: ppo, reward: [{source: function, name: 'a:b'}]}", "alignment.algorithm"), ("reward={}", "reward")],
)  # fmt: skip
def test_what_a_quantised_model_cannot_do_yet_is_refused(recipe_file, word, where):
    words = ["pretrain=null", "model={source: hub, name: a/b, quantization: int8}", word]
    if where is None:
        assert load_recipe(recipe_file, words).quantization == "int8"
    else:
        assert refusal_of(recipe_file, *words).where == where
