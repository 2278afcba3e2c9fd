"""Runs a command as a group of its own, and ends the group with whoever started this: for servers that leave children behind.

python -m flows.serving.guard COMMAND...
"""

from __future__ import annotations

import signal
import subprocess
import sys

from posttrain.runtime.child_processes import child_of_this_process, die_with_parent, stop

GRACE_SECONDS = 10.0


def main(command: list[str]) -> int:
    """Run it to its end; SIGTERM ends it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    die_with_parent()
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=child_of_this_process())
    try:
        return process.wait()
    finally:
        stop(process, GRACE_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
