"""datatrove's side of `python -m bench filter`: its executor, its filters, on JSON lines, one task; runs in its own environment.

python bench/peers/datatrove.py FOLDER MODE RESULT    MODE: chain, patched (white-space words), near, near_patched
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.writers import ParquetWriter
from datatrove.utils import text as texts


def patch() -> None:
    """White-space words, and sentences by the same marks, in the place of spaCy's."""
    from datatrove.pipeline.filters import c4_filters, fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter

    def words(text: str, language: str = "eng") -> list[str]:
        return text.split()

    for module in (texts, gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter, c4_filters):
        if hasattr(module, "split_into_words"):
            module.split_into_words = words
    c4_filters.split_into_sentences = lambda text, language="eng": text.replace("? ", ". ").replace("! ", ". ").split(". ")


def run(name: str, folder: Path, *steps: Any) -> None:
    """One executor, one task, in this process."""
    LocalPipelineExecutor(pipeline=list(steps), tasks=1, workers=1, logging_dir=str(folder / "logs" / name)).run()


def main(folder: Path, mode: str, result: Path) -> None:
    """Run a mode, and write seconds, CPU seconds and documents."""
    if mode.endswith("patched"):
        patch()
    filters = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]
    out = folder / f"peer-{mode}"
    shutil.rmtree(out, ignore_errors=True)  # an executor skips what its logs call done, so a second round would take no time
    clock, cpu = time.monotonic(), time.process_time()
    run(
        mode,
        out,
        JsonlReader(str(folder), glob_pattern="part-*.jsonl", add_file_path=False),
        *filters,
        ParquetWriter(str(out / "kept")),
    )
    if mode.startswith("near"):
        config = MinhashConfig(num_buckets=14, hashes_per_bucket=8, n_grams=5)
        kept, parts = (
            ParquetReader(str(out / "kept")),
            [str(out / each) for each in ("signatures", "buckets", "remove")],
        )
        run("signatures", out, kept, MinhashDedupSignature(output_folder=parts[0], config=config))
        LocalPipelineExecutor(
            pipeline=[MinhashDedupBuckets(input_folder=parts[0], output_folder=parts[1], config=config)],
            tasks=14, workers=1, logging_dir=str(out / "logs" / "buckets"),
        ).run()  # fmt: skip
        run("cluster", out, MinhashDedupCluster(input_folder=parts[1], output_folder=parts[2], config=config))
        run("filter", out, kept, MinhashDedupFilter(input_folder=parts[2]), ParquetWriter(str(out / "final")))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = {
        "seconds": time.monotonic() - clock,
        "cpu_seconds": time.process_time() - cpu + children.ru_utime + children.ru_stime,
    }
    result.write_text(json.dumps(measured))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
