"""Tasks of somebody else: read as data, and refused where they would run code or read elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from posttrain.pipeline.benchmark_check import check_tasks
from posttrain.pipeline.benchmark_folder import own_tasks, task_origin
from schemas.benchmarks import Benchmark
from schemas.errors import Refusal

TASK = {
    "task": "sums", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "sums.jsonl"}}, "test_split": "test",
    "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "answer",
    "metric_list": [{"metric": "exact_match"}],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "tasks"
    place.mkdir()
    (place / "sums.jsonl").write_text(json.dumps({"question": "1+1", "answer": "2"}) + "\n")
    (tmp_path / "outside.jsonl").write_text("{}\n")
    return place


def written(folder: Path, **keys) -> Path:
    (folder / "sums.yaml").write_text(yaml.safe_dump({**TASK, **keys}))
    return folder


def test_a_task_keeps_its_keys_and_finds_its_data_beside_it(folder):
    (task,) = own_tasks(written(folder), "f").values()
    assert task["dataset_kwargs"] == {"data_files": {"test": str(folder / "sums.jsonl")}}
    assert {name: task[name] for name in TASK if name != "dataset_kwargs"} == {
        name: value for name, value in TASK.items() if name != "dataset_kwargs"
    }


def test_a_task_that_includes_another_has_its_keys(folder):
    written(folder, task=None)
    (folder / "more.yaml").write_text("include: sums.yaml\ntask: more\nnum_fewshot: 2\n")
    assert own_tasks(folder, "f").keys() == {"more"}
    assert own_tasks(folder, "f")["more"]["num_fewshot"] == 2


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"class": "os.system"}, "class"),
        ({"custom_dataset": "x"}, "custom_dataset"),
        ({"process_docs": "x"}, "process_docs"),
        ({"unsafe_code": True}, "unsafe_code"),
        ({"use_prompt": "promptsource:x"}, "use_prompt"),
        ({"dataset_path": "./evil.py"}, "dataset_path"),
        ({"dataset_path": "someone/dataset"}, "dataset_path"),
        ({"dataset_kwargs": {"data_files": "../outside.jsonl"}}, "train"),
        ({"dataset_kwargs": {"data_files": {"test": "/etc/passwd"}}}, "test"),
        ({"dataset_kwargs": {"data_files": {"test": "https://example.com/x"}}}, "test"),
        ({"dataset_kwargs": {"data_files": "sums.jsonl", "trust_remote_code": True}}, "dataset_kwargs"),
        ({"metric_list": [{"metric": "./evil"}]}, "metric_list"),
        ({"metric_list": [{"metric": "someone/metric"}]}, "metric_list"),
        ({"metric_list": [{"metric": "bleu", "hf_evaluate": True}]}, "metric_list"),
        ({"generation_kwargs": {"custom_generate": "./evil", "trust_remote_code": True}}, "generation_kwargs"),
        ({"output_type": "shell"}, "output_type"),
        ({"include": "../outside.jsonl"}, "include"),
        ({"include": ["sums.yaml"]}, "include"),
    ],
)
def test_what_would_run_code_or_read_elsewhere_is_refused_by_its_key(folder, keys, where):
    with pytest.raises(Refusal) as refused:
        own_tasks(written(folder, **keys), "f")
    assert refused.value.where == f"{folder / 'sums.yaml'}: {where}"


def test_a_function_beside_the_task_is_not_imported(folder):
    (folder / "utils.py").write_text("raise SystemExit('imported')")
    (folder / "sums.yaml").write_text(yaml.safe_dump(TASK) + "process_results: !function utils.grade\n")
    with pytest.raises(Refusal, match="!function runs Python") as refused:
        own_tasks(folder, "f")
    assert refused.value.where == str(folder / "sums.yaml")


def test_a_link_in_the_folder_is_refused(folder):
    (folder / "link.yaml").symlink_to("/etc/hostname")
    with pytest.raises(Refusal, match="is a link"):
        own_tasks(written(folder), "f")


def test_a_folder_counts_by_its_content(folder):
    before = task_origin(str(written(folder)))
    assert task_origin(str(folder)) == before
    (folder / "sums.jsonl").write_text(json.dumps({"question": "1+1", "answer": "3"}) + "\n")
    assert task_origin(str(folder)).digest != before.digest


def test_a_task_that_is_not_there_is_refused_with_the_nearest(folder):
    pytest.importorskip("lm_eval")
    with pytest.raises(Refusal, match="did you mean sums") as refused:
        check_tasks(Benchmark(task="sum", folder=str(written(folder))), "evaluation.benchmarks.0")
    assert refused.value.where == "evaluation.benchmarks.0.task"
    check_tasks(Benchmark(task="sums", folder=str(folder)), "evaluation.benchmarks.0")


def test_code_is_refused_on_a_worker(folder, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("POSTTRAIN_WORKER", "1")
    with pytest.raises(Refusal, match="a worker that runs the recipes of others"):
        check_tasks(Benchmark(task="sums", folder=str(written(folder)), allow_code=True), "evaluation.benchmarks.0")
