"""What a tracking server gets of the rows: nothing, a few, or all of them."""

from __future__ import annotations

import polars as pl
import pytest

from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import Built, Store
from schemas.recipe import Recipe, Tracking
from tasks import tracked_stages, tracking
from tasks.tracked_rows import CHARACTERS, ROWS, table_to_log

PRIVATE = "private " * 1000


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "samples.parquet"
    pl.DataFrame({"row": range(ROWS + 50), "prompt": [PRIVATE] * (ROWS + 50)}).write_parquet(path)
    return path


def test_none_is_logged_where_none_is_asked_for(table):
    with table_to_log(table, Tracking(rows="none")) as logged:
        assert logged is None


def test_all_is_the_file_itself(table):
    with table_to_log(table, Tracking(rows="all")) as logged:
        assert logged == table


def test_a_sample_is_rows_of_the_whole_table_with_short_texts_under_the_same_name(table):
    """Of 150 rows every second one: the first 100 could all be of one file."""
    with table_to_log(table, Tracking()) as logged:
        few = pl.read_parquet(logged)
        assert logged.name == table.name
    assert few["row"].to_list() == list(range(0, ROWS + 50, 2))
    assert few["prompt"].to_list() == [PRIVATE[:CHARACTERS]] * 75


@pytest.mark.parametrize("rows", [0, 1, ROWS, 10 * ROWS])
def test_a_sample_has_at_most_its_rows(tmp_path, rows):
    pl.DataFrame({"row": range(rows)}, {"row": pl.Int64}).write_parquet(tmp_path / "samples.parquet")
    with table_to_log(tmp_path / "samples.parquet", Tracking()) as logged:
        assert pl.read_parquet(logged)["row"].to_list() == list(range(0, rows, max(1, rows // ROWS)))


@pytest.mark.parametrize(("rows", "there"), [("none", False), ("sample", True), ("all", True)])
def test_a_stage_is_logged_with_what_the_recipe_allows(tmp_path, root, table, rows, there):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    document = {
        "name": "house", "model": {"source": "local", "path": str(tmp_path)},
        "data": {"preferences": str(tmp_path / "pairs.jsonl")}, "alignment": {"algorithm": "dpo"}, "tracking": {"rows": rows},
    }  # fmt: skip
    chain = Chain(Recipe.model_validate(document), Store(root))
    run_id = tracking.start_run(chain.recipe, root)

    def make(out):
        (out / "quarantine.parquet").write_bytes(table.read_bytes())
        return Built({}, {})

    tracked_stages.log_stage(chain, run_id, chain.store.build(chain.identity("validate"), make))
    client = tracking.connect(tracking.tracking_uri(chain.recipe, root), root)
    (nested,) = client.search_runs([client.get_run(run_id).info.experiment_id], "tags.stage = 'validate'")
    assert ("quarantine.parquet" in {item.path for item in client.list_artifacts(nested.info.run_id)}) is there
