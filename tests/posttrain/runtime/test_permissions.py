"""What a worker lets a recipe run."""

from __future__ import annotations

import sys

import pytest

from posttrain.models.policy import source_policy
from posttrain.rewards.functions import load_function
from posttrain.rewards.judge import function_origin
from posttrain.runtime.permissions import refuse_function
from schemas.errors import Refusal
from schemas.model import HubModel

CODE = HubModel(source="hub", name="someone/model", trust_remote_code=True)


def allowed(name: str) -> bool:
    try:
        refuse_function(name, "evaluation.judge.name")
    except Refusal:
        return False
    return True


@pytest.mark.parametrize(
    ("setting", "name", "may"),
    [
        (None, "pty:spawn", True),
        ("", "pty:spawn", False),
        ("house", "pty:spawn", False),
        ("house", "house:reward", True),
        ("house", "house.rewards:polite", True),
        ("house", "household:reward", False),
        ("house.rewards", "house:reward", False),
        ("other, house.rewards:polite", "house.rewards:polite", True),
        ("house.rewards:polite", "house.rewards:rude", False),
        ("house.rewards:polite", "house.rewards:polite_", False),
    ],
)
def test_modules_are_allowed_whole_with_what_is_in_them_or_by_function(monkeypatch, setting, name, may):
    monkeypatch.delenv("POSTTRAIN_ALLOWED_FUNCTIONS", raising=False)
    if setting is not None:
        monkeypatch.setenv("POSTTRAIN_ALLOWED_FUNCTIONS", setting)
    assert allowed(name) is may


def test_a_worker_that_names_none_runs_the_projects_judge_and_no_other(monkeypatch):
    monkeypatch.setenv("POSTTRAIN_WORKER", "1")
    assert allowed("posttrain.data.samples:sentiment")
    assert not allowed("posttrain.data.samples:write_sample")
    assert not allowed("pty:spawn")


@pytest.mark.parametrize("use", [lambda: load_function("trap:reward", "f"), lambda: function_origin("trap.inner:reward", "f")])
def test_a_module_that_is_not_allowed_is_not_imported(monkeypatch, tmp_path, use):
    """To look for a module is to import the package that it is in."""
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "__init__.py").write_text("raise SystemExit('ran')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTTRAIN_ALLOWED_FUNCTIONS", "house")
    with pytest.raises(Refusal, match="may not import"):
        use()
    assert "trap" not in sys.modules


def test_remote_code_is_refused_on_a_worker_unless_it_allows_it(monkeypatch):
    assert source_policy(CODE).trust_remote_code
    monkeypatch.setenv("POSTTRAIN_WORKER", "1")
    with pytest.raises(Refusal, match=r"reward\.model\.trust_remote_code: found true"):
        source_policy(CODE, "reward.model")
    monkeypatch.setenv("POSTTRAIN_ALLOW_REMOTE_CODE", "1")
    assert source_policy(CODE).trust_remote_code
