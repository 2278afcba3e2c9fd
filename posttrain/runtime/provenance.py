"""Versions and commit that built a result, for lineage."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ("posttrain", "torch", "transformers", "peft", "tokenizers", "polars", "pandera")


@functools.cache
def environment() -> dict[str, str]:
    """Python and package versions, and the project's git commit where it runs from a checkout."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _git_commit()
    return versions | ({"git_commit": commit} if commit else {})


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)  # noqa: S607 - whichever git the user has
    return done.stdout.strip() if done.returncode == 0 else None  # a repository without commits has no HEAD
