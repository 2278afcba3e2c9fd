"""The digest by which the next stage knows a result: the bytes that it reads, and nothing else."""

from __future__ import annotations

from schemas.results import FileEntry, StageResult

ONE, TWO, LOG = (FileEntry(size=1, sha256=digit * 64) for digit in "123")


def digest(files: dict[str, FileEntry], outputs: dict[str, str]) -> str:
    """Digest of a result with these files and named outputs."""
    return StageResult(stage="s", key="k", seconds=0, fields={}, files=files, outputs=outputs).digest


def test_it_depends_on_name_and_content_of_every_output_and_not_on_their_order():
    """Four sets of files under one output folder: the first two are equal, the other two differ from them and each other."""
    outputs = {"model": "model"}
    both = digest({"model/a": ONE, "model/b": TWO}, outputs)
    assert both == digest({"model/b": TWO, "model/a": ONE}, outputs)
    assert len({both, digest({"model/a": TWO, "model/b": ONE}, outputs), digest({"model/a": ONE}, outputs)}) == 3


def test_logs_beside_the_outputs_do_not_count():
    """Curves hold wall times, so they differ between two runs that train equal weights."""
    outputs = {"model": "model"}
    assert digest({"model/a": ONE, "curve.jsonl": LOG}, outputs) == digest({"model/a": ONE}, outputs)


def test_a_folder_is_not_taken_for_another_with_the_same_beginning():
    outputs = {"model": "model"}
    assert digest({"model/a": ONE, "model-old/a": TWO}, outputs) == digest({"model/a": ONE}, outputs)


def test_an_output_may_be_a_single_file():
    assert digest({"pairs.parquet": ONE}, {"pairs": "pairs.parquet"}) != digest(
        {"pairs.parquet": TWO}, {"pairs": "pairs.parquet"}
    )
