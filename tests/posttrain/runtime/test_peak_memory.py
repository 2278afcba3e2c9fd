"""The allocator keeps what a pass frees until it is told to give it back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FREED = """
import ctypes, sys
from posttrain.runtime.peak_memory import give_back, keep_freed, resident_bytes

MIB, libc = 2**20, ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "kept":
    keep_freed()
give_back()
before = resident_bytes()
for pointer in [libc.malloc(16 * MIB) for _ in range(16)]:
    ctypes.memset(pointer, 1, 16 * MIB)
    libc.free(pointer)
after = resident_bytes()
give_back()
print(round((after - before) / MIB), round((resident_bytes() - before) / MIB))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")
@pytest.mark.parametrize(("how", "stays"), [("kept", True), ("default", False)])
def test_freed_memory_stays_resident_until_it_is_given_back(how, stays):
    done = subprocess.run([sys.executable, "-c", FREED, how], capture_output=True, text=True, check=True)
    kept, at_the_end = map(int, done.stdout.split())
    assert (kept > 100) == stays
    assert at_the_end < 20
