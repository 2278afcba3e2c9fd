"""GGUF files as folders of save_pretrained, dequantised once: what every stage, the check before a run and evaluation then load.

    CACHE/<sha256 of the file>/   safetensors in fp32, config, tokenizer.json and chat template

Read as it is, a GGUF takes seconds for each look at its config or its tokenizer, and many for its weights; a folder is mapped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from filelock import FileLock

from posttrain.models.policy import Policy
from posttrain.runtime import progress


def converted(file: Path, digest: str, cache: Path) -> Path:
    """The folder with the content of a GGUF file, made when there is none; processes that need it at once wait for the first.

    Args:
        file: the GGUF file.
        digest: SHA-256 of its bytes.
        cache: folder of all converted files.

    Raises:
        Refusal: when transformers cannot read the file.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / digest
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _convert(file, folder)
    return folder


def _convert(file: Path, folder: Path) -> None:
    """Write the folder whole or not at all."""
    from transformers import AutoTokenizer

    from posttrain.checkpoints.load import load_base, loading, place_of

    scratch = Path(f"{folder}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    source = Policy(str(file.parent), gguf=file.name)
    steps = progress.counted(progress.current(), f"converting {file.name}", 3)
    tokenizer = loading(source, lambda: AutoTokenizer.from_pretrained(source.base, **place_of(source)))
    steps(1)
    model = load_base(source)
    steps(1)
    model.config._name_or_path = file.name  # what the file says of itself is no place that anything could be loaded from
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    os.replace(scratch, folder)
    steps(1)
