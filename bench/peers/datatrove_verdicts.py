"""The verdict of each of datatrove's filters alone on some texts: `python datatrove_verdicts.py TEXTS.json VERDICTS.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.base_filter import BaseFilter

FILTERS = (GopherQualityFilter, GopherRepetitionFilter, FineWebQualityFilter, C4QualityFilter)


def passes(chosen: BaseFilter, text: str) -> bool:
    """Whether a document passes; one on which the filter divides by zero does not."""
    try:
        return chosen.filter(Document(text=text, id="")) is True
    except ZeroDivisionError:
        return False


texts = json.loads(Path(sys.argv[1]).read_text())
said = {kind.__name__: [passes(chosen, text) for text in texts] for kind in FILTERS for chosen in [kind()]}
Path(sys.argv[2]).write_text(json.dumps(said))
