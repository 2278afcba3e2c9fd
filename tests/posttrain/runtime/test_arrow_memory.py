"""Memory that tables of changing sizes leave between what is in use goes back to the system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# Buffers of 2 MB, with a small one behind each that stays, then all large ones let go: the C library cannot shrink its heap.
GAPS = """
import ctypes
import pyarrow as pa
from posttrain.runtime.arrow_memory import of_system, trimmed
ctypes.CDLL(None).mallopt(-3, 64 << 20)  # M_MMAP_THRESHOLD: as after some large arrays, these too lie on the heap

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

with of_system():
    def held():
        large, small = [], []
        for at in range(64):
            large.append(pa.array(bytearray(2 << 20), pa.uint8()))
            small.append(pa.array([at] * 100))
        return small
    small = held()
    before = resident()
    told = [(item, resident()) for item in trimmed("abcd", 2)]
print("".join(item for item, _ in told), before - told[1][1], before - told[2][1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked so")
def test_gaps_between_buffers_go_back_after_every_so_many_items() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", GAPS], env=environment, capture_output=True, text=True, check=True)
    items, still, given_back = found.stdout.split()
    assert items == "abcd"
    assert int(still) < 16
    assert int(given_back) > 100
