"""What the machine does while a stage is built: a line every few seconds beside the run, from where MLflow gets it like a curve.

Names and units are MLflow's, which draws what begins with `system/` on a page of its own. Its own sampler is not used: it asks
the server for each sample, and stops for good when that is away.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from posttrain.runtime.redaction import clean

MEGABYTE = 1e6
PREFIX = "system/"


@contextmanager
def sampled(path: Path, every: float | None) -> Iterator[None]:
    """Append a line to a file every so many seconds inside; None is never. Stages shorter than that have none.

    Each line has `step`, its number; `seconds` since the first sample of the stage; and the numbers of `sample`.
    """
    if every is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, every, over), daemon=True, name="system metrics")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1)


def _follow(path: Path, every: float, over: threading.Event) -> None:
    began, first = _began(path)
    psutil.cpu_percent()  # the first call has nothing to compare with
    while not over.wait(every):
        try:
            line = {"step": first, "seconds": round(time.monotonic() - began, 1), **sample()}
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
            first += 1
        except Exception as error:  # a full disk, a driver that went away: no reason to end a training
            sys.stderr.write(clean(f"no more system metrics: {error}\n"))
            return


def _began(path: Path) -> tuple[float, int]:
    """When the first sample would have been taken, and the number of the next; a stage that resumes goes on."""
    try:
        last = json.loads(path.read_text().splitlines()[-1])
        return time.monotonic() - float(last["seconds"]), int(last["step"]) + 1
    except (OSError, ValueError, LookupError, TypeError):
        return time.monotonic(), 0


def sample() -> dict[str, float]:
    """Of this machine and process, now; of every CUDA device that this process uses as well."""
    memory = psutil.virtual_memory()
    found = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_usage_megabytes": psutil.Process().memory_info().rss / MEGABYTE,
    }
    return found | _of_devices()


def _of_devices() -> dict[str, float]:
    torch = sys.modules.get("torch")  # a stage that never imported it has nothing on a device
    if torch is None or not torch.cuda.is_initialized():
        return {}
    found = {}
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found[f"gpu_{index}_memory_usage_megabytes"] = (total - free) / MEGABYTE
        found[f"gpu_{index}_memory_usage_percentage"] = 100 * (total - free) / total
    return found
