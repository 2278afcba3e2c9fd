"""What was compiled is kept, for this user alone, and found again."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.text.kernels.compiling import COMPILED

ROOT = Path(__file__).resolve().parents[4]
CHILD = """
import sys
from pathlib import Path
from posttrain.text.kernels.compiling import keep_compiled
keep_compiled(Path(sys.argv[1]))
import numpy as np
from posttrain.text.kernels.minhash import jaccard
one, other = np.arange(4, dtype=np.uint64), np.arange(2, 6, dtype=np.uint64)
print(jaccard(one, other), sum(jaccard.stats.cache_hits.values()))
"""

pytestmark = pytest.mark.skipif(not COMPILED, reason="numba does not work here")


def call(folder: Path) -> list[str]:
    """Jaccard index of {0..3} and {2..5}, which is 2 / 6, and how often a kernel was found compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CHILD, str(folder)], env=environment, capture_output=True, text=True, check=True)
    index, hits = done.stdout.split()
    assert float(index) == 2 / 6
    return [hits, *sorted(path.name for path in folder.rglob("*.nbc"))]


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    first, second = call(tmp_path), call(tmp_path)
    assert (first[0], second[0]) == ("0", "1")
    assert first[1:] == second[1:] != []
    (own,) = tmp_path.iterdir()
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    """Its content would be run: somebody else could put code there."""
    own = tmp_path / f"compiled-{os.getuid()}"
    own.mkdir()
    own.chmod(0o777)
    assert call(tmp_path) == ["0"]
    assert list(own.iterdir()) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"compiled-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert call(tmp_path) == ["0"]
