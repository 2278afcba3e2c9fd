"""One changed byte is found in every kind of file that a stage may write, by the table of stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.pipeline.stages import WORK
from posttrain.runtime.store import RESULT, Built, StageKey, Store
from schemas.errors import Refusal
from schemas.results import Origin
from tasks.lineage import lineage_of

RUN = "abc"


def written(stage: str) -> list[str]:
    """A file for each name in the stage's row; a name without a suffix is a folder with a file."""
    names = [name.replace("*", "-1") for name in WORK[stage].writes]
    return [name if "." in name else f"{name}/part.safetensors" for name in names]


def build(stage: str, out: Path) -> Built:
    for name in written(stage):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(f"{stage} {name}".encode())
    return Built({"loss": 0.5}, {Path(name).parts[0].split(".")[0]: Path(name).parts[0] for name in written(stage)})


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The store of a run that has every stage, each made from the one before it."""
    store = Store(tmp_path_factory.mktemp("store"))
    before = Origin(name="data.corpus", digest="d", location="corpus.jsonl")
    stages = []
    for stage in WORK:
        stored = store.build(
            StageKey(stage, WORK[stage].version, {"seed": 0}, (before,)), lambda out, stage=stage: build(stage, out)
        )
        stages.append({"name": stage, "key": stored.result.key})
        before = stored.origin()
    (store.root / "runs" / RUN).mkdir(parents=True)
    (store.root / "runs" / RUN / RESULT).write_text(json.dumps({"stages": stages}))
    return store.root


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage in WORK for name in (*written(stage), RESULT)])
def test_a_changed_byte_is_found(root, stage, name):
    path = next(root.glob(f"{stage}/*/{name}"))
    content = path.read_bytes()
    for at in (0, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(Refusal, match=stage):
            lineage_of(RUN, root, None, verify=True)
    path.write_bytes(content)
    assert lineage_of(RUN, root, None, verify=True)["verified"]
