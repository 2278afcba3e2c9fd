"""A folder with the user's own benchmark tasks: read as data, so that a task from somebody else runs nothing here.

lm-eval imports the Python that a YAML names by `!function`, loads metrics by address, and renders templates without a sandbox.
Of a folder without `allow_code` only the keys below are read, from plain YAML; templates are rendered in Jinja's sandbox
(`posttrain/evaluation/benchmarks/tasks.py`); data lie in the folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from posttrain.runtime.trees import Irregular, contents, read_regular
from schemas import yaml_limits
from schemas.errors import Refusal, closest
from schemas.results import Origin

FORMATS = ("json", "csv", "parquet", "text")
KEYS = frozenset({
    "task", "task_alias", "tag", "include", "dataset_path", "dataset_name", "dataset_kwargs", "training_split",
    "validation_split", "test_split", "fewshot_split", "doc_to_text", "doc_to_target", "doc_to_choice", "description",
    "target_delimiter", "fewshot_delimiter", "fewshot_config", "num_fewshot", "metric_list", "output_type",
    "generation_kwargs", "repeats", "filter_list", "gen_prefix", "metadata",
})  # fmt: skip
OUTPUTS = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")
METRIC_KEYS = frozenset({"metric", "aggregation", "higher_is_better", "ignore_case", "ignore_punctuation", "regexes_to_ignore"})
DRAWING = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"})  # transformers takes code by others
LARGEST = 1 << 30  # bytes of a folder
DEEPEST = 8  # files that include each other


def own_tasks(folder: Path, where: str) -> dict[str, dict[str, Any]]:
    """The tasks of a folder by name, as configurations whose data files are absolute paths inside it.

    Raises:
        Refusal: naming the file, when one is no task that runs no code.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in _files(folder, where):
        if path.suffix in (".yaml", ".yml"):
            document = _document(path)
            if isinstance(document.get("task"), str):
                found[document["task"]] = checked(_with_included(document, path, folder, 0), path, folder)
    if not found:
        raise Refusal(
            where=where, found=f"{folder}, without a task", allowed="a folder with YAML files that have a key task",
            remedy="check the path",
        )  # fmt: skip
    return found


def task_origin(folder: str) -> Origin:
    """A folder of tasks as an input, by the content of all its files."""
    root = Path(folder).expanduser().resolve()
    digest = hashlib.sha256()
    for path in _files(root, "evaluation.benchmarks"):
        digest.update(f"{path.relative_to(root)}\0".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return Origin(name="evaluation.benchmarks", digest=digest.hexdigest(), location=folder)


def _files(folder: Path, where: str) -> list[Path]:
    try:
        files, _ = contents(folder)
        size = sum(path.stat().st_size for path in files)
    except (OSError, Irregular) as error:
        raise Refusal(
            where=where, found=str(error), allowed="a folder of regular files", remedy="check the path, and copy what is linked"
        ) from None
    if size > LARGEST:
        raise Refusal(where=where, found=f"{size:,} bytes", allowed=f"at most {LARGEST:,}", remedy="keep a smaller split")
    return [path for path in files if "__pycache__" not in path.parts]


def _document(path: Path) -> dict[str, Any]:
    try:
        document = yaml_limits.read(read_regular(path, yaml_limits.BYTES).decode(), str(path))
    except (yaml.YAMLError, ValueError) as error:  # a `!function` is no plain YAML; Irregular and bad UTF-8 are ValueErrors
        problem = getattr(error, "problem", None) or str(error)
        raise Refusal(
            where=str(path), found=problem, allowed="plain YAML: without tags, of which !function runs Python",
            remedy="write it without, or set allow_code=true for a task that you would run as a script",
        ) from None  # fmt: skip
    return document if isinstance(document, dict) else {}


def _with_included(document: dict[str, Any], path: Path, folder: Path, depth: int) -> dict[str, Any]:
    """The document over those that it includes; its own keys win."""
    includes = document.pop("include", [])
    merged: dict[str, Any] = {}
    for name in includes if isinstance(includes, list) else [includes]:
        other = _inside(folder, path.parent / str(name), str(path), "include")
        if depth == DEEPEST:
            raise _refused(path, "include", f"{depth} files that include each other", f"at most {DEEPEST}")
        merged |= _with_included(_document(other), other, folder, depth + 1)
    return merged | document


def checked(config: dict[str, Any], path: Path, folder: Path) -> dict[str, Any]:
    """A task's configuration, with its data files as absolute paths.

    Raises:
        Refusal: for the first key that could run code or read outside of the folder.
    """
    for key in config:
        if key not in KEYS:
            guess = closest(str(key), KEYS)
            raise _refused(path, str(key), "a key that runs code, or that is not known", f"of {', '.join(sorted(KEYS))}", guess)
    _one_of(path, "dataset_path", config.get("dataset_path"), FORMATS)
    _one_of(path, "output_type", config.get("output_type", "generate_until"), OUTPUTS)
    drawing = config.get("generation_kwargs") or {}
    if not isinstance(drawing, dict) or not set(drawing) <= DRAWING:
        raise _refused(path, "generation_kwargs", str(drawing), f"of {', '.join(sorted(DRAWING))}")
    metrics = config.get("metric_list") or []
    for metric in metrics if isinstance(metrics, list) else [metrics]:
        if not isinstance(metric, dict) or not set(metric) <= METRIC_KEYS or not all(map(_is_name, _named(metric))):
            raise _refused(path, "metric_list", str(metric), f"metrics of lm-eval by name, with {', '.join(sorted(METRIC_KEYS))}")
    return config | {"dataset_kwargs": _data_files(config, path, folder)}


def _named(metric: Mapping[str, Any]) -> Iterator[Any]:
    yield metric.get("metric")
    yield metric.get("aggregation", "mean")


def _is_name(value: Any) -> bool:
    """As of a metric of lm-eval; what has a slash or a dot could be a file that the library evaluate would run."""
    return isinstance(value, str) and value.replace("_", "").replace("+", "").isalnum()


def _data_files(config: Mapping[str, Any], path: Path, folder: Path) -> dict[str, Any]:
    given = config.get("dataset_kwargs") or {}
    files = given.get("data_files") if isinstance(given, dict) and set(given) == {"data_files"} else None
    if isinstance(files, str):
        files = {"train": files}
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise _refused(path, "dataset_kwargs", str(given), "data_files alone: a file of this folder for each split")
    return {
        "data_files": {str(split): str(_inside(folder, path.parent / name, str(path), split)) for split, name in files.items()}
    }


def _inside(folder: Path, path: Path, where: str, key: str) -> Path:
    found = path.resolve()
    if not found.is_relative_to(folder.resolve()) or not found.is_file():
        raise Refusal(
            where=f"{where}: {key}",
            found=str(path),
            allowed=f"a file in {folder}",
            remedy="copy it there, and give its name alone",
        )
    return found


def _one_of(path: Path, key: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise _refused(path, key, str(value), f"one of {', '.join(allowed)}")


def _refused(path: Path, key: str, found: str, allowed: str, guess: str | None = None) -> Refusal:
    remedy = f"did you mean {guess}?" if guess else "correct it, or set allow_code=true for a task that you would run as a script"
    return Refusal(where=f"{path}: {key}", found=found, allowed=allowed, remedy=remedy)
