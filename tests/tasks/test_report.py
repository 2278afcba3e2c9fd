"""What the report of a run says beside its numbers."""

from __future__ import annotations

import json

from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import RESULT, Built, Store
from schemas.recipe import Recipe
from tasks.report import unsealed

STAGES = ("validate", "align", "evaluate")


def a_chain(root) -> Chain:
    """A chain of three stages that are finished."""
    (root.parent / "model").mkdir(exist_ok=True)
    (root.parent / "pairs.jsonl").write_text('{"prompt": "How was the soup?", "chosen": "Warm.", "rejected": "Cold."}\n')
    document = {
        "name": "house", "model": {"source": "local", "path": str(root.parent / "model")},
        "data": {"preferences": str(root.parent / "pairs.jsonl")}, "alignment": {"algorithm": "dpo"},
        "evaluation": {"judge": {"name": "posttrain.data.samples:sentiment"}},
    }  # fmt: skip
    chain = Chain(Recipe.model_validate(document), Store(root))
    for stage, output in zip(STAGES, ("preferences", "adapter", "samples"), strict=True):
        chain.store.build(chain.identity(stage), lambda out, name=output: _built(out, name))
    return chain


def _built(out, name: str) -> Built:
    (out / name).write_text(name)
    return Built({}, {name: name})


def test_results_without_a_seal_are_named(tmp_path):
    chain = a_chain(tmp_path / "store")
    assert unsealed(chain, STAGES) == []
    for stage in ("align", "evaluate"):
        path = chain.stored(stage).folder / RESULT
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seal": None}))
    [notice] = unsealed(Chain(chain.recipe, Store(tmp_path / "store")), STAGES)
    assert notice.startswith("results without a seal, since an older version wrote them: align, evaluate.")
    assert "run again" in notice
