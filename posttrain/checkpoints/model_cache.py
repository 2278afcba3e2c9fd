"""GGUF files as folders of save_pretrained, dequantised once: what every stage, the check before a run and evaluation then load.

    CACHE/<sha256 of the file>/       safetensors in fp32, config, tokenizer.json and chat template
    CACHE/<sha256 of the file>.json   manifest of that folder; one that does not agree with it is converted again

Read as it is, a GGUF takes seconds for each look at its config or its tokenizer, and many for its weights; a folder is mapped.
"""

from __future__ import annotations

from pathlib import Path

from posttrain.models.policy import Policy
from posttrain.runtime import progress
from posttrain.runtime.cached_folder import cached_folder


def converted(file: Path, digest: str, cache: Path) -> Path:
    """The folder with the content of a GGUF file, made when there is none; processes that need it at once wait for the first.

    Args:
        file: the GGUF file.
        digest: SHA-256 of its bytes.
        cache: folder of all converted files.

    Raises:
        Refusal: when transformers cannot read the file.
    """
    return cached_folder(cache / digest, lambda scratch: _convert(file, scratch))


def _convert(file: Path, scratch: Path) -> Path:
    from transformers import AutoTokenizer

    from posttrain.checkpoints.load import load_base, loading, place_of

    source = Policy(str(file.parent), gguf=file.name)
    steps = progress.counted(progress.current(), f"converting {file.name}", 3)
    tokenizer = loading(source, lambda: AutoTokenizer.from_pretrained(source.base, **place_of(source)))
    steps(1)
    model = load_base(source)
    steps(1)
    model.config._name_or_path = file.name  # what the file says of itself is no place that anything could be loaded from
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    steps(1)
    return scratch
