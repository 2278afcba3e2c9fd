"""`posttrain validate`, `filter` and `check` alone: what they print, as JSON and for people, and what they write."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import yaml

from posttrain.data.samples import write_sample

HH = Path(__file__).resolve().parents[2].parent / "shared/data/hh-rlhf-harmless-base-test.jsonl.gz"


def labels(name: str, folder: Path) -> list[str | None]:
    """What the generator planted in each row of a sample."""
    write_sample(name, folder / f"labelled-{name}.jsonl")
    return [json.loads(line)["noise"] for line in (folder / f"labelled-{name}.jsonl").read_text("utf-8").splitlines()]


def test_validate_quarantines_exactly_the_planted_rows_of_the_sample(call, tmp_path):
    """Of the planted noise only `reversed` pairs cannot be seen without scores."""
    done = call("validate", "sample://preferences", "--out", "checked", "--json")
    assert done.code == 0, done.err
    planted = labels("preferences", tmp_path)
    bad = [row for row, label in enumerate(planted, 1) if label not in (None, "reversed")]
    document = json.loads(done.out)
    assert document["out"] == "checked"
    summary = document["preferences"]
    assert (summary["rows_in"], summary["quarantined"], summary["kept"]) == (len(planted), len(bad), len(planted) - len(bad))
    assert summary["train"] + summary["holdout"] == summary["kept"]
    assert sorted(pl.read_parquet("checked/quarantine.parquet")["row"].to_list()) == bad
    assert pl.read_parquet("checked/preferences.parquet").height == summary["kept"]
    assert json.loads(Path("checked/summary.json").read_text()) == {"preferences": summary}


def test_validate_explains_shapes_and_reads_conversations_under_other_names(call):
    shown = call("validate", "--explain", "shapes")
    assert shown.code == 0
    assert "| Alpaca | `instruction`, `output` or" in shown.out
    Path("t.jsonl").write_text("".join(f'{{"ask": "a {n}?", "reply": "b", "label": true}}\n' for n in range(4)))
    given = ["validate", "t.jsonl", "--as", "instructions", "--columns", "prompt=ask", "--columns", "completion=reply", "--json"]
    refused = call(*given)
    assert refused.code == 2
    assert "`label` in 4 rows: it says which answers are good" in refused.err
    done = call(*given, "--ignore", "label")
    assert done.code == 0, done.err
    summary = json.loads(done.out)["instructions"]
    assert (summary["kept"], summary["shapes"], summary["unread_columns"]) == (4, {"prompt, completion": 4}, {})


def test_validate_writes_to_the_folder_validated_unless_told(call):
    Path("p.jsonl").write_text('{"prompt": "a?", "chosen": "b", "rejected": "c"}\n')
    done = call("validate", "p.jsonl")
    assert done.code == 0, done.err
    assert "preferences: 1 of 1 rows kept" in done.out
    written = {"preferences.parquet", "quarantine.parquet", "summary.json", "report.html"}
    assert {path.name for path in Path("validated").iterdir()} == written


def test_validate_keeps_its_output_when_it_refuses(call):
    """One of two rows is quarantined: 50% is above the 20% that may be dropped."""
    Path("p.jsonl").write_text(
        '{"prompt": "a?", "chosen": "b", "rejected": "b"}\n{"prompt": "a?", "chosen": "b", "rejected": "c"}\n'
    )
    done = call("validate", "p.jsonl", "--out", "checked", "--json")
    assert done.code == 2
    document = json.loads(done.out)
    assert (document["status"], document["exit_code"], document["refused"]["where"]) == ("refused", 2, "data.preferences")
    assert "50.00% rows dropped in data.preferences: identical (1 row, such as p.jsonl:1)" in document["refused"]["found"]
    assert (document["preferences"]["rows_in"], document["preferences"]["kept"]) == (2, 1)
    assert Path(document["report"]).name == "report.html"
    assert "<b>refused</b>" in Path(document["report"]).read_text()
    assert "50.00% rows dropped" in done.err
    assert "p.jsonl:1" in done.err
    assert pl.read_parquet("checked/quarantine.parquet")["reasons"].to_list() == [["identical"]]


def test_validate_shows_its_checks_where_it_refuses(call):
    Path("p.jsonl").write_text('{"prompt": "a?", "chosen": "b", "rejected": "b"}\n' * 2)
    done = call("validate", "p.jsonl")
    assert done.code == 2
    assert "preferences: 0 of 2 rows kept, 2 quarantined" in done.out
    assert [line.split()[1:7:2] for line in done.out.splitlines() if "identical" in line] == [["identical", "drop", "2"]]


def test_validate_takes_checks_and_holdout_as_options(call):
    """One of two rows is dropped. Held out are all prompts, or nearly none."""
    Path("p.jsonl").write_text("".join(f'{{"prompt": "a {n}?", "chosen": "b", "rejected": "{"bc"[n]}"}}\n' for n in range(2)))
    for share, split in (("0.999", "holdout"), ("0.001", "train")):
        done = call("validate", "p.jsonl", "--set", "data.checks.max_drop_rate=0.5", "--holdout", share, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["preferences"][split] == 1
    wrong = call("validate", "p.jsonl", "--set", "data.checks.max_drop_rat=0.5", "--json")
    assert wrong.code == 2
    assert "max_drop_rat" in json.loads(wrong.out)["refused"]["where"]


def test_validate_takes_the_data_sets_of_a_recipe(call, tiny):
    done = call("validate", "--recipe", tiny.recipe, "--json")
    assert done.code == 0, done.err
    assert {"preferences", "instructions"} <= set(json.loads(done.out))
    both = call("validate", "p.jsonl", "--recipe", tiny.recipe, "--json")
    assert json.loads(both.out)["refused"]["found"] == "DATA and --recipe"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["validate", "nowhere.jsonl", "--json"], 2, "nothing at 'nowhere.jsonl'"),
        (["filter", "nowhere.jsonl", "--json"], 2, "nothing at 'nowhere.jsonl'"),
        (["check", "nowhere.yaml", "--json"], 2, "no such file"),
        (["run", "nowhere.yaml", "--json"], 2, "no such file"),
        (["sweep", "nowhere.yaml", "--json"], 2, "no such file"),
        (["lineage", "models:/nobody@champion", "--json"], 2, "nobody"),
        (["validate", "--nothing", "--json"], 2, "No such option: --nothing"),
    ],
)
def test_a_command_with_json_says_on_stdout_why_it_refuses(call, words, code, said):
    done = call(*words)
    document = json.loads(done.out)
    assert (done.code, document["exit_code"], document["status"]) == (code, code, "refused")
    assert said in document["refused"]["found"]
    assert set(document["refused"]) == {"where", "found", "allowed", "remedy"}


@pytest.mark.skipif(not HH.exists(), reason="shared/data is not next to this checkout")
def test_validate_reads_hh_transcripts_and_balances(call):
    """2,312 pairs in the file; both sides of a pair start with the same dialogue."""
    done = call("validate", HH, "--out", "hh", "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)["preferences"]
    assert summary["rows_in"] == 2312
    assert summary["kept"] + summary["quarantined"] == 2312
    assert summary["quarantined"] < 0.02 * 2312
    assert summary["train"] + summary["holdout"] == summary["kept"]
    table = pl.read_parquet("hh/preferences.parquet")
    assert table.height == summary["kept"]
    assert table["chosen"].list.len().unique().to_list() == [1]
    assert set(table["prompt"].list.last().struct.field("role").to_list()) == {"user"}


def test_filter_writes_into_a_new_folder_and_loses_no_document(call, tmp_path):
    done = call("filter", "sample://corpus", "--out", "new/corpus", "--json")
    assert done.code == 0, done.err
    numbers = json.loads(done.out)
    tables = {name: pl.read_parquet(f"new/corpus/{name}.parquet") for name in ("kept", "rejected", "quarantine")}
    assert numbers["documents_in"] == len(labels("corpus", tmp_path))
    for name, column in {"kept": "kept", "rejected": "rejected", "quarantine": "quarantined"}.items():
        assert tables[name].height == numbers[f"documents_{column}"]
    assert sum(table.height for table in tables.values()) == numbers["documents_in"]
    assert numbers["documents_train"] + numbers["documents_holdout"] == numbers["documents_kept"]
    assert Counter(tables["rejected"]["reasons"].explode().to_list()) == numbers["reasons"]


def test_filter_without_rules_rejects_the_copies_alone(call, tmp_path):
    """`near_duplicate` rows differ in more than case and white space, so only `duplicate` ones are exact copies."""
    (tmp_path / "out").mkdir()
    done = call("filter", "sample://corpus", "--out", "out", "--preset", "none", "--json")
    assert done.code == 0, done.err
    planted = labels("corpus", tmp_path)
    copies = [row for row, label in enumerate(planted, 1) if label == "duplicate"]
    rejected = pl.read_parquet("out/rejected.parquet")
    assert set(copies) <= set(rejected["row"].to_list())
    assert {planted[row - 1] for row in rejected["row"]} <= {"duplicate", "boilerplate", "too_short", "other_language"}
    assert rejected["reasons"].explode().unique().to_list() == ["duplicate"]


def test_check_prints_stages_counts_and_sizes_and_writes_nothing(call, tiny, tmp_path):
    """120 rows of each in the files. Cache per token: 2 (key and value) x 4 bytes x 2 layers x 16 (head) x 1 head = 256 bytes."""
    done = call("check", tiny.recipe, "--store", tmp_path / "store", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["recipe"] == "tiny"
    assert document["stages"] == ["validate", "filter", "pretrain", "sft", "align", "evaluate", "register"]
    for name in ("preferences", "instructions"):
        assert document["data"][f"{name}_rows_in"] == document["data"][f"{name}_kept"] == 120
    assert document["model"]["kv_cache_bytes_per_token"] == 256
    assert document["model"]["kv_cache_without_gqa"] == 512
    assert list(tmp_path.iterdir()) == []


def test_check_counts_the_parameters_that_a_run_reports(call, tiny, finished, tmp_path):
    done = call("check", tiny.recipe, "--store", tmp_path / "store", "--json")
    document = json.loads(done.out)
    model, memory = document["model"], document["memory"]
    built = {stage.name: stage.metrics for stage in finished.report.stages}
    assert model["parameters"] == built["sft"]["parameters"] == built["sft"]["trainable_parameters"]
    assert memory["sft"]["trainable_parameters"] == built["sft"]["trainable_parameters"]
    assert memory["align"]["trainable_parameters"] == built["align"]["trainable_parameters"]


@pytest.fixture
def in_half_precision(tiny, finished, tmp_path):
    """A recipe that starts from a checkpoint in bfloat16, as most public ones are."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    outputs = next(stage.outputs for stage in finished.report.stages if stage.name == "sft")
    AutoModelForCausalLM.from_pretrained(outputs["model"], dtype="bfloat16").save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(outputs["model"]).save_pretrained(tmp_path / "half")
    document = {name: value for name, value in tiny.document.items() if name not in ("pretrain", "sft", "filtering")}
    data = {name: value for name, value in document["data"].items() if name in ("preferences", "holdout")}
    document |= {"model": {"source": "local", "path": str(tmp_path / "half")}, "data": data}
    (tmp_path / "half.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "half.yaml"


def test_check_forecasts_a_checkpoint_in_half_precision(call, in_half_precision, tmp_path):
    """Its weights are fp32 in training; the numbers of `size_of` are for them."""
    done = call("check", in_half_precision, "--store", tmp_path / "store", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    weights = document["memory"]["align"]["parts_gb"]["weights"]
    assert weights == pytest.approx(4 * document["model"]["parameters"] / 1e9, abs=0.002)
    assert document["seconds"]["align"]["expected"] > 0


def test_check_forecasts_memory_for_gpus_that_only_a_work_pool_has(call, in_half_precision, tmp_path):
    words = ["--set", "placement=deployed", "--set", "compute.device=cuda"]
    done = call("check", in_half_precision, *words, "--store", tmp_path / "store", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["memory"]["align"]["device"] == "cuda"
    assert "baseline" not in document["memory"]["align"]["parts_gb"]  # this process holds none of it
    assert "seconds" not in document
    assert any("seconds are not forecast" in notice for notice in document["notices"])
    refused = call("check", in_half_precision, "--set", "compute.device=cuda", "--store", tmp_path / "store", "--json")
    assert refused.code == 2
    assert "no CUDA device" in refused.err


def test_check_follows_the_stages_that_overrides_remove(call, tiny, tmp_path):
    words = ["--set", "alignment={algorithm: none}", "--set", "registry=null"]
    done = call("check", tiny.recipe, *words, "--store", tmp_path / "store", "--json")
    assert json.loads(done.out)["stages"] == ["validate", "filter", "pretrain", "sft", "evaluate"]


def test_what_check_prints_for_people_is_the_same_content(call, tiny, tmp_path):
    as_json = json.loads(call("check", tiny.recipe, "--store", tmp_path / "store", "--json").out)
    for_people = yaml.safe_load(call("check", tiny.recipe, "--store", tmp_path / "store").out)
    assert paths_and_leaves(for_people) == paths_and_leaves(as_json)


def paths_and_leaves(found, path=""):
    """Each leaf by its path; of memory and time only that they are numbers, since two commands measure them anew."""
    if not isinstance(found, dict):
        return {path: isinstance(found, int | float) if "_gb" in path or "/seconds/" in path else found}
    return {p: leaf for key, value in found.items() for p, leaf in paths_and_leaves(value, f"{path}/{key}").items()}
