"""`posttrain models`, `compare`, `promote` and `rollback` on the finished run."""

from __future__ import annotations

import json

MODEL = "models:/tiny@champion"


def test_models_lists_what_is_registered(finished, warm, tiny):
    done = warm("models", "--store", finished.store, "--json", cwd=tiny.folder)
    assert done.returncode == 0, done.stderr
    [version] = json.loads(done.stdout)
    assert (version["model"], version["aliases"], version["recipe"]) == ("models:/tiny/1", ["champion"], "tiny")
    assert all("passed" in said for said in version["gates"].values())
    assert [(move["turn"], move["replaced"]) for move in version["moves"]] == [(1, None)]
    shown = warm("models", "tiny", "--store", finished.store, cwd=tiny.folder, COLUMNS="200").stdout
    assert "tiny/1" in shown
    assert "champion" in shown


def test_a_version_and_its_run_are_the_same_side_by_side(finished, warm, tiny):
    done = warm("compare", MODEL, finished.report.run_id, "--store", finished.store, "--json", cwd=tiny.folder)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["differs"] == []
    assert all(metric["a"] == metric["b"] for metric in document["metrics"])
    assert document["b_against_a"]["win_rate"]["value"] == 0.5
    assert document["b_against_a"]["reward"]["value"] == 0
    shown = warm("compare", MODEL, MODEL, "--store", finished.store, cwd=tiny.folder, COLUMNS="200").stdout
    assert f"of {document['common_prompts']} common prompts against A" in shown
    assert "win rate vs sft" in shown


def test_the_champion_is_promoted_by_hand_in_vain_and_replaced_none(copy, warm, tiny, helpers):
    done = warm("promote", MODEL, "--because", "why not", "--store", copy, cwd=tiny.folder)
    assert (done.returncode, done.stdout) == (0, "tiny version 1 is champion\n"), done.stderr
    refused = warm("rollback", "tiny", "--because", "worse", "--store", copy, cwd=tiny.folder)
    assert refused.returncode == 2
    helpers.assert_helpful(refused.stderr, ("version 1, which replaced none", "posttrain promote models:/NAME/VERSION"))


def test_an_unknown_model_is_refused(finished, warm, tiny, helpers, tmp_path):
    for words in (("models", "nobody"), ("rollback", "nobody", "--because", "x"), ("compare", "nobody", MODEL)):
        done = warm(*words, "--store", finished.store, cwd=tiny.folder)
        assert done.returncode == 2
        helpers.assert_helpful(done.stderr, ("nobody",))
    done = warm("models", "--store", tmp_path / "empty", cwd=tiny.folder)
    assert done.returncode == 2
    helpers.assert_helpful(done.stderr, ("nothing was registered",))
    assert not (tmp_path / "empty" / "tracking" / "mlflow.db").exists()
