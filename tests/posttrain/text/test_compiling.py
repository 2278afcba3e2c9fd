"""Where compiled kernels lie: they are code that later runs load."""

from __future__ import annotations

from pathlib import Path

from posttrain.text.kernels.compiling import cache_of_user


def test_a_store_holds_no_compiled_code(finished):
    """Others may write it, or hand it on as a copy, whose files belong to whoever unpacks them."""
    assert "filter" in {stage.name for stage in finished.report.stages}
    assert [path for path in finished.store.rglob("*") if path.suffix in {".nbi", ".nbc"}] == []


def test_it_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_of_user() == tmp_path / "posttrain"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_of_user() == Path(tmp_path) / ".cache" / "posttrain"
