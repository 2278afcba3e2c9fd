"""Runs Python code of strangers: no network, no files but a scratch folder, limits of time, memory, processes and output.

Linux namespaces do it, set up by `unshare` of util-linux. The code sees the interpreter and the system's libraries, read-only,
an empty environment, and no process but its own. It has no capability, and under root it is `nobody`.
What namespaces cannot keep out is a fault of the kernel itself: code that is hostile on purpose belongs on a machine of its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from posttrain.runtime.child_processes import child_of_this_process
from schemas.errors import Refusal

SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache")
PROGRAM = "program.py"
NOBODY = 65534
TOOLS = ("unshare", "setpriv", "prlimit", "mount", "umount", "pivot_root")
PROBE = """import json, os, socket
print(json.dumps({"pid": os.getpid(), "networks": [name for _, name in socket.if_nameindex()], "places": os.listdir("/")}))"""
# $1: an empty folder, which becomes the root; $2: the folder with the program; then limits, and the command after them.
SETUP = r"""
set -e
root=$1 program=$2 memory=$3 seconds=$4 processes=$5 disk=$6; shift 6
PATH=$PATH:/usr/sbin:/sbin
mount --make-rprivate /
mount -t tmpfs -o size=1m,mode=755,nosuid,nodev none "$root"
while [ "$1" != -- ]; do
  if [ -L "$1" ]; then mkdir -p "$root${1%/*}"; cp -P "$1" "$root$1"
  elif [ -d "$1" ]; then mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; mount -o remount,bind,ro,nosuid "$root$1"
  elif [ -e "$1" ]; then mkdir -p "$root${1%/*}"; cp "$1" "$root$1"
  fi; shift
done; shift
mkdir -p "$root/proc" "$root/dev" "$root/old" "$root/tmp" "$root/program"
mount -t tmpfs -o "size=${disk},mode=1777,nosuid,nodev" none "$root/tmp"
mount -t proc -o nosuid,nodev,noexec none "$root/proc"
mount --bind "$program" "$root/program"
mount -o remount,bind,ro,nosuid,nodev "$root/program"
for node in null zero urandom; do : > "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
cd "$root"
pivot_root . old
umount -l /old
mount -o remount,bind,ro,nosuid,nodev /
cd /tmp
exec prlimit --core=0 --as="$memory" --cpu="$seconds" --nproc="$processes" --nofile=64 --fsize="$disk" setpriv "$@"
"""


@dataclass(frozen=True)
class Limits:
    """What a program may take."""

    seconds: float = 10.0
    """On the clock; processor time is bounded by the same, rounded up."""
    memory: int = 512 << 20
    """Bytes of address space of each process."""
    processes: int = 8
    """At a time, so that `memory` of each bounds them all."""
    output: int = 64 << 10
    """Bytes of standard output and error together, beyond which it is stopped."""
    disk: int = 16 << 20
    """Bytes in its scratch folder, which lie in memory."""


@dataclass(frozen=True)
class Finished:
    """How a program ended."""

    code: int | None
    """Its exit status, negative for a signal; None where it was stopped."""
    output: str
    """Standard output, as far as it was read."""
    stopped: str | None = None
    """Which limit stopped it."""


def run_python(program: str, stdin: str = "", limits: Limits = Limits()) -> Finished:
    """Run a program with the standard library alone.

    Raises:
        Refusal: where this machine has no namespaces for it, as `check`.
    """
    check()
    return _run(program, stdin, limits)


@functools.cache
def check() -> None:
    """Refuse a machine on which a program would not be shut in: nothing is run unprotected instead.

    Raises:
        Refusal: with what is missing.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool, path=_path()) is None]
    if sys.platform != "linux" or missing:
        raise _refusal(f"{', '.join(missing)} not installed" if missing else f"{sys.platform}, which has no namespaces")
    found = _run(PROBE, "", Limits(seconds=20))
    places = {Path(place).parts[1] for place in (*SYSTEM, sys.base_prefix)} | {"dev", "old", "proc", "program", "tmp"}
    inside = json.loads(found.output) if found.code == 0 else None
    if not inside or inside["pid"] > 2 or inside["networks"] != ["lo"] or not places.issuperset(inside["places"]):
        raise _refusal(f"namespaces that do not hold: {(found.output or found.stopped or 'no output').strip()[-300:]}")


def _refusal(found: str) -> Refusal:
    return Refusal(
        where="posttrain.rewards.sandbox",
        found=found,
        allowed="Linux with util-linux and namespaces: user namespaces, or root with CAP_SYS_ADMIN",
        remedy="allow them (sysctl kernel.unprivileged_userns_clone=1, or --security-opt seccomp=unconfined of the container), "
        "or take a reward that runs no code",
    )


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _command(root: str, folder: str, limits: Limits) -> list[str]:
    """`unshare`, the set-up, and the interpreter, which is the base of a virtual environment: with the standard library alone."""
    is_root = os.geteuid() == 0
    become = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"] if is_root else []
    drop = [*become, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    numbers = [limits.memory, int(limits.seconds) + 1, limits.processes, limits.disk]
    return [
        "unshare", *([] if is_root else ["--user", "--map-root-user"]), "--mount", "--net", "--ipc", "--uts", "--pid", "--fork",
        "--kill-child", "sh", "-c", SETUP, "sandbox", root, folder, *map(str, numbers), *SYSTEM, sys.base_prefix, "--",
        *drop, "env", "-i", "PATH=/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8", python, "-I", "-S", f"/program/{PROGRAM}",
    ]  # fmt: skip


def _run(program: str, stdin: str, limits: Limits) -> Finished:
    with tempfile.TemporaryDirectory(prefix="posttrain-code-") as scratch:
        root, folder = Path(scratch, "root"), Path(scratch, "program")
        for each in (root, folder):
            each.mkdir(mode=0o755)
        Path(scratch).chmod(0o711)  # `nobody` reads the program in it
        (folder / PROGRAM).write_text(program, encoding="utf-8", errors="replace")
        (folder / "stdin").write_text(stdin, encoding="utf-8", errors="replace")
        with (folder / "stdin").open("rb") as given:
            process = subprocess.Popen(
                _command(str(root), str(folder), limits), stdin=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={"PATH": _path()}, start_new_session=True, preexec_fn=child_of_this_process(), close_fds=True,
            )  # fmt: skip
            try:
                output, stopped = _read(process, limits)
            finally:
                _kill(process)
    return Finished(None if stopped else process.returncode, output.decode("utf-8", "replace"), stopped)


def _read(process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, str | None]:
    """Output up to its limit, and which limit was reached."""
    assert process.stdout
    ends, output = time.monotonic() + limits.seconds, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := ends - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            part = os.read(process.stdout.fileno(), 1 << 16)
            output += part
            if len(output) > limits.output:
                return output[: limits.output], f"more than {limits.output:,} bytes of output"
            if not part:
                break
    try:
        process.wait(max(0.0, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        return output, f"no end within {limits.seconds:g} s"
    return output, None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With the first process of its namespace all others of it die, whatever they did with sessions and signals."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()
