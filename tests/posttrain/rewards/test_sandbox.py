"""Code of strangers, shut in: every way out that is tried here must be closed."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from posttrain.rewards import code, sandbox
from posttrain.rewards.sandbox import Limits, run_python
from schemas.errors import Refusal


@pytest.fixture(scope="module", autouse=True)
def allowed():
    try:
        sandbox.check()
    except Refusal as refusal:
        pytest.skip(str(refusal))


def test_a_program_runs_with_the_standard_library_and_its_input():
    found = run_python("import json, sys\nprint(json.dumps([int(sys.stdin.read()) + 1]))", "41")
    assert (found.code, found.output, found.stopped) == (0, "[42]\n", None)


def test_no_network_not_even_this_machines():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = run_python(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)")
    assert found.code == 1
    assert "OSError" in found.output or "ConnectionRefusedError" in found.output


def test_no_file_of_this_machine_is_read_or_written(tmp_path: Path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    places = [str(secret), str(Path(__file__)), "/etc/passwd", str(Path.home() / ".bashrc"), "/proc/1/root/etc/shadow"]
    tried = (
        "import os\n"
        f"for place in {places!r}:\n    print(os.path.exists(place))\n"
        "for place in ('/x', '/usr/x', '/program/x', '/old/x', '/dev/x'):\n"
        "    try: open(place, 'w'); print('wrote', place)\n    except OSError: pass\n"
        "open('/tmp/own', 'w').write('x'); print(os.listdir('/tmp'))"
    )
    assert run_python(tried).output == "False\n" * len(places) + "['own']\n"
    assert not Path("/tmp/own").exists()


def test_no_secret_of_the_environment(monkeypatch):
    monkeypatch.setenv("POSTTRAIN_TEST_TOKEN", "hunter2")
    found = run_python("import os\nprint(sorted(os.environ), open('/proc/1/environ').read())")
    assert "hunter2" not in found.output
    assert "['HOME', 'LANG', 'PATH']" in found.output


def test_no_process_of_this_machine_is_seen_or_signalled():
    program = (
        f"import os\nfor pid in ({os.getpid()}, {os.getppid()}):\n"
        "    try: os.kill(pid, 9); print('killed')\n    except ProcessLookupError: print('none')\n"
        "print(len([name for name in os.listdir('/proc') if name.isdigit()]))"
    )
    assert run_python(program).output == "none\nnone\n1\n"


def test_no_mount_and_no_way_out_of_the_root():
    program = (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\n"
        "print(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None), libc.umount2(b'/proc', 2), libc.chroot(b'/tmp'))\n"
        "os.chdir('/'); os.chdir('..'); print('home' in os.listdir('.'))"
    )
    assert run_python(program).output == "-1 -1 -1\nFalse\n"


def test_memory_is_bounded():
    found = run_python("x = bytearray(1 << 30)", limits=Limits(memory=256 << 20))
    assert found.code == 1
    assert "MemoryError" in found.output


def test_endless_output_is_stopped():
    found = run_python("while True: print('x' * 100)", limits=Limits(output=1000))
    assert (found.code, len(found.output), found.stopped) == (None, 1000, "more than 1,000 bytes of output")


def test_a_full_disk_is_its_own():
    found = run_python("f = open('/tmp/x', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20))", limits=Limits(disk=4 << 20))
    assert found.code != 0


def test_a_fork_bomb_ends_at_its_limit():
    program = "import os\nn = 0\ntry:\n    while os.fork(): n += 1\n    os.pause()\nexcept OSError: print('after', n < 8)"
    assert "after True" in run_python(program.replace("os.pause()", "__import__('time').sleep(60)")).output


def test_what_runs_on_is_killed_with_its_children():
    program = "import os, signal, time\nsignal.signal(15, signal.SIG_IGN)\nif os.fork() == 0: os.setsid()\ntime.sleep(4321)"
    assert run_python(program, limits=Limits(seconds=0.7)).stopped == "no end within 0.7 s"
    time.sleep(0.1)
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and b"/program/program.py" in _command_line(pid)]
    assert left == []


def _command_line(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_machine_without_namespaces_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox, "SETUP", "echo not permitted; exit 1")
    with pytest.raises(Refusal, match="namespaces that do not hold: not permitted"):
        sandbox.check.__wrapped__()
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(Refusal, match="darwin, which has no namespaces"):
        sandbox.check.__wrapped__()


RIGHT = "Here:\n```python\ndef add(a, b):\n    return a + b\n```"


@pytest.mark.parametrize(
    ("response", "tests", "reward", "extracted"),
    [
        (RIGHT, "assert add(2, 3) == 5", 1.0, "passed"),
        (RIGHT, ["assert add(2, 3) == 5", "assert add(2, 2) == 5"], 0.0, "failed: AssertionError"),
        ("print(int(input()) * 2)", [{"input": "4", "output": "8"}], 1.0, "passed"),
        ("print(int(input()) + 4)", [{"input": "4", "output": "8"}, {"input": "1", "output": "2"}], 0.0, "failed: printed '5"),
        ("import os; os._exit(0)", "assert False", 0.0, "failed: ended with status 0"),
        ("raise SystemExit", "assert False", 0.0, "failed: ended with status 0"),
        ("not code at all", "assert True", 0.0, "failed: SyntaxError"),
        (RIGHT, None, None, None),
    ],
)
def test_code_is_worth_what_its_tests_say(response, tests, reward, extracted):
    ((found, said, _),) = code.python(["?"], [response], [{"tests": tests}])
    assert found == reward
    assert said is extracted or said.startswith(extracted)


def test_tests_of_another_form_are_refused():
    with pytest.raises(Refusal, match="statements as text"):
        code.python(["?"], ["x"], [{"tests": [5]}])


def test_this_interpreter_is_the_one_that_runs():
    assert run_python("import sys; print(*sys.version_info[:2])").output.split() == [str(n) for n in sys.version_info[:2]]
