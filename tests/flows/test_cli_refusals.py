"""Bad recipes and bad calls, through the real command line: exit code 2, one message that helps, and nothing trained or written.

Each case is refused by `check` and, with the same words, by `run`; most run in this process, a few as a process of their own.
"""

from __future__ import annotations

import json

import pytest

FIELDS = {
    "unknown field": (["sft.learning_rat=0.1"], ("sft.learning_rat: found an unknown field", "did you mean learning_rate?")),
    "negative learning rate": (["pretrain.learning_rate=-0.1"], ("pretrain.learning_rate: found -0.1", "greater than 0")),
    "beta without alignment": (["alignment={algorithm: none, beta: 0.1}"], ("alignment.beta: found an unknown field",)),
    "unknown algorithm": (["alignment.algorithm=grpo"], ("alignment.algorithm: found 'grpo'", "'dpo', 'ppo', 'none'", "choose")),
    "unknown method": (["sft.peft={method: qlora}"], ("sft.peft.method: found 'qlora'", "'full', 'lora'")),
    "layers that do not exist": (
        ["alignment.peft={method: lora, target_modules: [q_prj]}"], ("alignment.peft.target_modules: found q_prj", "q_proj")
    ),
    "rank beyond the layers": (["sft.peft={method: lora, r: 512, init: pissa}"], ("sft.peft.r: found 512", "lower r")),
    "noise beside a soft prompt": (
        ["sft={peft: {method: prompt_tuning}, neftune_alpha: 5}"], ("sft.neftune_alpha: found 5", "remove neftune_alpha")
    ),
    "prompt without words": (
        ["alignment.peft={method: prompt_tuning, init: text, text: ' '}"], ("alignment.peft.text: found ' '", "pattern")
    ),
    "not a number": (["alignment.beta=.nan"], ("alignment.beta: found nan", "finite")),
    "text for a number": (["sft.epochs=two"], ("sft.epochs: found 'two'", "valid integer")),
    "zero epochs": (["alignment.epochs=0"], ("alignment.epochs: found 0", "greater than or equal to 1")),
    "holdout of everything": (["data.holdout=1"], ("data.holdout: found 1", "less than 1")),
    "negative seed": (["seed=-1"], ("seed: found -1", "greater than or equal to 0")),
    "name with a slash": (["name=a/b"], ("name: found 'a/b'", "pattern")),
    "heads that do not divide": (["model.heads=3"], ("model.heads: found 3", "divide", "32")),
    "key heads that do not divide": (["model.kv_heads=4"], ("model.kv_heads: found 4", "divide")),
    "scratch without pretraining": (["pretrain=null"], ("pretrain: found null", "model.source scratch", "add pretrain")),
    "sft without instructions": (["data.instructions=null"], ("data.instructions: found null", "the stage sft reads it")),
    "alignment without pairs": (["data.preferences=null"], ("data.preferences: found null", "the stage align reads it")),
    "gate that is not measured": (
        ["sft=null", "evaluation.gates.win_rate_vs_sft.min=0.5"],
        ("evaluation.gates.win_rate_vs_sft: found", "metrics that this recipe measures: calibration_error", "remove it"),
    ),
    "unknown gate": (["evaluation.gates.accuracy.min=0.5"], ("evaluation.gates.accuracy: found an unknown field",)),
    "promotion on what is not measured": (
        ["sft=null", "registry.promote_on=win_rate_vs_sft"],
        ("registry.promote_on: found win_rate_vs_sft", "win_rate_vs_base"),
    ),
    "unknown sample": (["data.corpus=sample://corpse"], ("data.corpus: found sample://corpse", "did you mean sample://corpus?")),
    "module of the judge": (
        ["evaluation.judge.name=no.such.module:reward"], ("evaluation.judge.name: found no.such.module:reward", "importable")
    ),
    "function of the judge": (
        ["evaluation.judge.name=posttrain.rewards.judge:no_such"],
        ("evaluation.judge.name: found posttrain.rewards.judge:no_such", "no_such"),
    ),
    "judge without a function": (["evaluation.judge.name=posttrain"], ("evaluation.judge.name: found 'posttrain'", "pattern")),
    "model folder that is missing": (
        ["model={source: local, path: nowhere}"], ("model.path: found nowhere, which is no folder", "save_pretrained")
    ),
    "GGUF file that is missing": (
        ["model={source: gguf, path: nowhere.gguf}"], ("model.path: found", "nowhere.gguf, which is no file", "check the path")
    ),
    "field of another architecture": (
        ["model.architecture=t5"], ("model.kv_heads: found 1 with architecture t5", "remove kv_heads")
    ),
    "data file that is missing": (
        ["data.preferences=no/such/pairs.jsonl"], ("data.preferences: found nothing at 'no/such/pairs.jsonl'", "relative paths")
    ),
    "set without a value": (["alignment.beta"], ("--set alignment.beta: found no field=value", "alignment.beta=0.3")),
    "set below a value": (["name.first=x"], ("--set name.first: found name holds 'tiny'", "a section")),
    "set to broken YAML": (["sft=[1"], ("--set sft=[1", "a value in YAML")),
}  # fmt: skip


@pytest.mark.parametrize("case", FIELDS)
def test_a_bad_field_is_refused_by_name_with_what_is_allowed_and_the_remedy(case, refused, tiny):
    overrides, said = FIELDS[case]
    refused(tiny.recipe, [word for override in overrides for word in ("--set", override)], said)


def test_a_gpu_that_is_not_there_is_refused_before_anything_runs(refused, tiny):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    refused(
        tiny.recipe, ["--set", "compute.device=cuda"], ("compute.device: found cuda", "auto or cpu", "set compute.device=auto")
    )


def test_rows_longer_than_the_model_takes_are_refused_before_anything_runs(refused, tiny):
    """A model of 32 positions cannot hold the rows of 64 tokens that pretraining asks for."""
    said = ("pretrain.context: found 64 with model.max_length 32", "at most 32", "raise model.max_length")
    refused(tiny.recipe, ["--set", "model.max_length=32"], said)


RECIPES = {
    "missing": (None, ("tiny.yml: found no such file", "check the path")),
    "not UTF-8": (b"name: caf\xe9\n", ("tiny.yml: byte 9: found bytes that are not UTF-8", "save the file as UTF-8")),
    "broken at line 3": (b"name: x\nseed: 0\nmodel: [1, 2\n", ("tiny.yml:", "valid YAML", "mend this line")),
    "a list": (b"- name: x\n", ("tiny.yml: found list", "a mapping of recipe fields")),
    "empty": (b"", ("tiny.yml: found NoneType", "a mapping of recipe fields")),
    "without a model": (b"name: x\ndata: {corpus: a}\n", ("model: found nothing", "add the field")),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_file_that_is_no_recipe_is_refused_by_its_path_and_line(case, refused, tmp_path):
    content, said = RECIPES[case]
    if content is not None:
        (tmp_path / "tiny.yml").write_bytes(content)
    refused(tmp_path / "tiny.yml", [], said)


def test_the_line_of_broken_yaml_is_named(refused, tmp_path):
    (tmp_path / "tiny.yml").write_text("name: x\nseed: 0\nmodel: {a: b: c}\ndata: 1\n")
    refused(tmp_path / "tiny.yml", [], ("tiny.yml:3: found",))


def test_a_store_that_is_a_url_of_another_kind_is_refused(call, tiny, tmp_path, helpers):
    for verb in ("check", "run"):
        done = call(verb, tiny.recipe, "--store", "gs://bucket/store")
        assert done.code == 2, done.out + done.err
        helpers.assert_helpful(done.err, ("--store: found gs://bucket/store", "s3://BUCKET/PREFIX"))
        assert list(tmp_path.iterdir()) == []


def test_a_model_folder_names_what_it_lacks(refused, tiny, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    model = f"model={{source: local, path: {tmp_path / 'model'}}}"
    said = (f"model.path: found {tmp_path / 'model'}, which lacks safetensors weights, a tokenizer", "tokenizer included")
    refused(tiny.recipe, ["--set", model], said)


@pytest.fixture(scope="module")
def short_gpt2(tmp_path_factory):
    """A checkpoint of 64 positions."""
    from posttrain.checkpoints.load import scratch_model
    from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
    from schemas.model import ScratchModel

    tokenizer, folder = prepare_tokenizer(train_tokenizer(["a short text"] * 9, 270)), tmp_path_factory.mktemp("gpt2")
    shape = {"architecture": "gpt2", "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 64}
    scratch_model(ScratchModel(source="scratch", **shape), tokenizer, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("field", ["sft.max_length", "alignment.max_length"])
def test_rows_longer_than_a_checkpoint_reads_are_refused_before_anything_runs(refused, tiny, short_gpt2, field):
    fields = {
        "model": f"{{source: local, path: {short_gpt2}}}",
        "pretrain": "null",
        "sft.max_length": 64,
        "alignment.max_length": 64,
    }
    words = [word for name, value in {**fields, field: 65}.items() for word in ("--set", f"{name}={value}")]
    refused(tiny.recipe, words, (f"{field}: found 65 with a model of 64 positions", "at most 64", "lower it"))


def test_answers_that_leave_no_room_for_a_prompt_are_refused_before_anything_runs(refused, tiny, short_gpt2):
    """As many new tokens as a model has positions: evaluation would cut every prompt to its last token."""
    fields = {"model": f"{{source: local, path: {short_gpt2}}}", "pretrain": "null", "sft.max_length": 64}
    fields |= {"alignment.max_length": 64, "evaluation.max_new_tokens": 63}
    words = [word for name, value in fields.items() for word in ("--set", f"{name}={value}")]
    said = "evaluation.max_new_tokens: found 63 with a model of 64 positions"
    refused(tiny.recipe, words, (said, "at most 62, which leaves room for a prompt", "lower it"))


OTHER = {
    "validate a missing file": (["validate", "nowhere.jsonl"], ("DATA: found nothing at 'nowhere.jsonl'",)),
    "filter by an unknown preset": (
        ["filter", "sample://corpus", "--out", "o", "--preset", "gofer"], ("--preset: found 'gofer'", "gopher, llama3, none")
    ),
    "filter an unknown sample": (["filter", "sample://corps", "--out", "o"], ("DATA: found sample://corps", "did you mean")),
    "lineage of an unknown run": (["lineage", "0123"], ("MODEL: found 0123", "models:/NAME@ALIAS", "check --store")),
    "lineage of an unknown model": (["lineage", "models:/none@champion"], ("MODEL: found models:/none@champion", "check")),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER)
def test_the_other_commands_refuse_in_the_same_form(case, call, helpers):
    words, said = OTHER[case]
    done = call(*words)
    assert done.code == 2, done.err
    assert done.out == ""
    helpers.assert_helpful(done.err, said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "sft.learning_rat=0.1"], ("sft.learning_rat", "did you mean learning_rate?")),
        (["--set", "data.preferences=no/such/pairs.jsonl"], ("data.preferences: found nothing at",)),
        (["--set", "evaluation.judge.name=no.such:judge"], ("evaluation.judge.name",)),
    ],
)
def test_a_process_of_its_own_refuses_with_exit_code_2_and_writes_nothing(words, said, cli, tiny, tmp_path, helpers):
    done = cli("run", tiny.recipe, "--json", *words, "--store", tmp_path / "store", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout)["status"] == "refused"
    helpers.assert_helpful(done.stderr, said)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_a_file_is_refused(cli, tiny, tmp_path, helpers):
    (tmp_path / "store").write_text("not a folder")
    done = cli("run", tiny.recipe, "--json", "--store", tmp_path / "store", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    helpers.assert_helpful(done.stderr, ("--store: found", "a local folder"))
    assert (tmp_path / "store").read_text() == "not a folder"


def test_a_judge_module_that_raises_is_refused_with_what_it_raised(refused, tiny, tmp_path, monkeypatch):
    (tmp_path / "own_judge.py").write_text("reward = 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    said = ("evaluation.judge.name: found own_judge:reward", "division by zero")
    refused(tiny.recipe, ["--set", "evaluation.judge.name=own_judge:reward"], said)


def test_a_crash_is_not_called_a_refusal(cli, tmp_path):
    """A damaged database is neither the recipe's nor the data's fault: exit code 1, with the traceback."""
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "mlflow.db").write_text("not SQLite")
    done = cli("lineage", "models:/tiny@champion", "--store", tmp_path, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "refused  " not in done.stderr
    assert "Traceback" in done.stderr
    assert "file is not a database" in done.stderr
