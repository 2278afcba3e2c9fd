"""What every process of a pool has when it starts: it is forked off one that has imported this module and does nothing else.

Importing it starts no threads that work, whose locks a fork would copy as they are: hence nothing is asked of polars here.
"""

from __future__ import annotations

import pyarrow as pa

from posttrain.filters import (
    shard,  # noqa: F401 - the tasks
    steps,  # noqa: F401
)
from posttrain.filters.metrics import measured, without_lines
from posttrain.text.buffers import buffers
from posttrain.text.kernels.folding import fold
from posttrain.text.near import band_hashes
from schemas.filter_rules import LineRules

_FEW = buffers(pa.array(["A text.\nOf two lines.", "été"], pa.large_string()))
measured(without_lines(_FEW, LineRules(min_words=1))[0])  # kernels are loaded when they are first called
band_hashes(fold(*_FEW), 14, 8)
