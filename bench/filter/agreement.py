"""`python -m bench.filter.agreement FILE…`: on how many documents each filter of datatrove and our rules agree."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.filter.command import DATATROVE
from bench.sides import ROOT, call, refuse_without_peer
from posttrain.filters.metrics import METRICS
from posttrain.filters.rules import DROPPED, passing
from posttrain.filters.variants import described
from posttrain.text.buffers import buffers
from schemas.filter_presets import PRESETS
from schemas.filtering import Filtering

_GOPHER = [name for name, bounds in PRESETS["gopher"] if bounds is not None]
_REPEATS = [name for name in _GOPHER if name.startswith(("duplicate", "top"))]
FILTERS: dict[str, dict[str, Any]] = {
    "GopherQualityFilter": {"preset": "gopher", "rules": dict.fromkeys(_REPEATS)},
    "GopherRepetitionFilter": {"preset": "gopher", "rules": dict.fromkeys(set(_GOPHER) - set(_REPEATS))},
    "FineWebQualityFilter": {"preset": "fineweb-code"},
    "C4QualityFilter": {"preset": "c4", "lines": {"drop_unpunctuated": True}},
}
"""Of each the rules that are the same."""


def verdicts(texts: list[str], document: dict[str, Any]) -> list[bool]:
    """Which documents pass the rules of a section `filtering`."""
    filtering = Filtering.model_validate(document)
    _, dropped, found = described(buffers(pa.array(texts, pa.large_string())), filtering)
    metrics = {name: np.ascontiguousarray(found[:, at]) for at, name in enumerate(METRICS)} | {DROPPED: dropped.sum(axis=1)}
    passes: list[bool] = passing(metrics, filtering.resolved()).tolist()
    return passes


def main(files: list[str]) -> None:
    """Print the table."""
    refuse_without_peer(DATATROVE)
    texts = [json.loads(line)["text"] for file in files for line in Path(file).read_bytes().splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        given, said = Path(folder) / "texts.json", Path(folder) / "verdicts.json"
        given.write_text(json.dumps(texts))
        call([str(DATATROVE), "-P", str(ROOT / "bench" / "peers" / "datatrove_verdicts.py"), str(given), str(said)])
        theirs = json.loads(said.read_text())
    print("| datatrove's filter | our definitions | `variant: datatrove` |\n|---|---|---|")
    for name, document in FILTERS.items():
        ours = [verdicts(texts, document | {"variant": variant}) for variant in ("posttrain", "datatrove")]
        shares = [np.mean(np.array(each) == np.array(theirs[name])) for each in ours]
        print(f"| {name} | {shares[0]:.3f} | {shares[1]:.3f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
