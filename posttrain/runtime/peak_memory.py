"""The largest memory of one stage, though a run's stages share a process.

Linux keeps a process's largest resident set (VmHWM) and lets it be reset, so each stage has its own. Elsewhere the number is the
largest since the process began, earlier stages included. On CUDA it is the largest allocation of the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import torch

from posttrain.runtime.store import Built

P = ParamSpec("P")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # versions 2 and 1
RESET_PEAK = "5"  # proc_pid_clear_refs(5): the peak becomes the resident set of the moment


def measured(stage: Callable[P, Built]) -> Callable[P, Built]:
    """The stage, with its own `peak_memory_gb` (10⁹ bytes) among the metrics that it returns."""

    @functools.wraps(stage)
    def run(*args: P.args, **kwargs: P.kwargs) -> Built:
        reset_peak()
        built = stage(*args, **kwargs)
        built.metrics["peak_memory_gb"] = peak_memory_gb()
        return built

    return run


def reset_peak() -> None:
    """Begin a new measurement. What earlier work has freed and the allocator still holds is given back to the system first."""
    give_back()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container may forbid it: then the number is the largest since the process began
            Path("/proc/self/clear_refs").write_text(RESET_PEAK)


def give_back() -> None:
    """Return to the system what was freed: of two phases that want blocks of other sizes, the second one cannot use it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        _trim_heap()


def _trim_heap() -> None:
    """glibc keeps freed blocks below the top of its heap resident; musl has no such function and needs none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_memory_gb() -> float:
    """Largest memory since `reset_peak` in 10⁹ bytes: of the CUDA device where it holds anything, else of this process."""
    allocated = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return round((allocated or _largest_resident()) / 1e9, 3)


def resident_bytes() -> int:
    """Memory of this process now; elsewhere than on Linux, at most so far."""
    return _status("VmRSS") if sys.platform == "linux" else _largest_resident()


def available_bytes(device: torch.device) -> int:
    """What a stage on `device` could use: of a CUDA device all of its memory, else what no other process of this machine holds.

    A control group's limit, as containers have one, counts as the machine's.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if sys.platform != "linux":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = _field(Path("/proc/meminfo"), "MemAvailable") + resident_bytes()
    limits = [int(text) for path in CGROUP_LIMITS if path.exists() and (text := path.read_text().strip()).isdigit()]
    return min([free, *limits])


def _largest_resident() -> int:
    """Bytes."""
    if sys.platform == "linux":
        return _status("VmHWM")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _status(name: str) -> int:
    """Bytes in a field of this process's status: `VmRSS` resident now, `VmHWM` at most."""
    return _field(Path("/proc/self/status"), name)


def _field(path: Path, name: str) -> int:
    """Bytes in a field that the kernel gives in kB."""
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{name}:")) * 1024
