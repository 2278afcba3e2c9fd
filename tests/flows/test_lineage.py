"""`posttrain lineage --verify` on the finished run: one changed byte in any file that its stages stored, or of its version."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from posttrain.pipeline.stages import WORK
from schemas.errors import Refusal
from tasks.lineage import lineage_of

MODEL = "models:/tiny@champion"


@pytest.fixture(scope="module")
def store(finished, tmp_path_factory) -> Path:
    return Path(shutil.copytree(finished.store, tmp_path_factory.mktemp("bytes") / "store"))


def test_a_changed_byte_is_found_in_every_file_of_every_stage(store):
    """Also in the result itself; each file is mended again, and in the end all is as it was built."""
    files = [path for stage in WORK for path in sorted((store / stage).glob("*/**/*")) if path.is_file()]
    kinds = {(path.relative_to(store).parts[0], path.name) for path in files}
    assert {("align", "adapter_model.safetensors"), ("align", "reference.safetensors"), ("validate", "preferences.parquet"),
            ("filter", "rejected.parquet"), ("sft", "curve.jsonl"), ("evaluate", "samples.parquet"), ("register", "README.md"),
            ("register", "tokenizer.json"), ("pretrain", "result.json")} <= kinds  # fmt: skip
    missed = []
    for path in files:
        content = path.read_bytes()
        at = len(content) // 2
        if not content:
            continue
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        try:
            lineage_of(MODEL, store, None, verify=True)
            said = "nothing"
        except Refusal as refused:
            said = str(refused)
        if path.relative_to(store).parts[0] not in said:
            missed.append((str(path.relative_to(store)), said))
        path.write_bytes(content)
    assert missed == []
    assert lineage_of(MODEL, store, None, verify=True)["verified"]


def test_what_mlflow_has_of_a_version_is_verified_with_the_rest(store, client_of):
    """A copied store has the artifacts of the run that it is a copy of: here the digests are changed in place of the bytes."""
    client = client_of(store)
    tags = client.get_model_version("tiny", "1").tags
    noted = [name for name in tags if name.startswith("artifact.")]
    assert set(noted) == {"artifact.checkpoint", "artifact.adapter", "artifact.base", "artifact.rest"}
    for name in noted:
        client.set_model_version_tag("tiny", "1", name, "0" * 64)
        with pytest.raises(Refusal, match=r"MLflow \(models:/tiny/1\).*not what was registered"):
            lineage_of(MODEL, store, None, verify=True)
        client.set_model_version_tag("tiny", "1", name, tags[name])
    assert lineage_of(MODEL, store, None, verify=True)["verified"]
