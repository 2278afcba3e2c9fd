"""What a schedule repeats: files that came since make new results, and without them nothing is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.deployed.registration import Site, plan
from posttrain.data.samples import write_sample
from schemas.load import load_recipe

SCHEDULES = Path(__file__).parents[2] / "deployments" / "schedules"


@pytest.mark.parametrize(("name", "cron"), [("nightly", "0 2 * * *"), ("weekly", "0 3 * * 0")])
def test_the_recipes_for_schedules_load_and_are_planned_with_the_time_in_them(name, cron):
    path = SCHEDULES / f"{name}.yaml"
    assert f'--schedule "{cron}"' in path.read_text()
    recipe = load_recipe(path)
    [planned] = [each for each in plan(Site(store="/store", dtype="float32"), {name: recipe}, {name: cron}) if each.cron]
    assert (planned.full_name, planned.cron) == (f"post-training/{name}", cron)


def test_a_night_without_a_new_file_builds_nothing_and_one_with_a_file_aligns_on_it(copy, again, tiny, tmp_path):
    """The glob first has the file of the finished run alone: the same content under another name."""
    rows = (tiny.folder / "preferences.jsonl").read_text().splitlines()
    (tmp_path / "monday.jsonl").write_text("\n".join(rows) + "\n")
    words = ("--set", f"data.preferences={tmp_path}/*.jsonl", "--set", "registry=null")
    assert again(copy, *words).built == []
    write_sample("preferences", tmp_path / "all")
    clean = [line for line in (tmp_path / "all").read_text().splitlines() if json.loads(line)["noise"] is None]
    (tmp_path / "tuesday.jsonl").write_text("\n".join(clean[len(rows) : len(rows) + 12]) + "\n")
    assert again(copy, *words).built == ["validate", "align", "evaluate"]
