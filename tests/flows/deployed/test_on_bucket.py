"""Work pools whose machines have nothing in common but a bucket and their servers: a folder of its own for each worker."""

from __future__ import annotations

import json

import pytest

from posttrain.runtime.remote import place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ADDRESS = "s3://posttrain/site"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of the workers, by pool."""
    return {pool: tmp_path_factory.mktemp(pool) for pool in ("cpu", "gpu")}


@pytest.fixture(scope="module")
def site(small, start_site, s3, folders, tmp_path_factory):
    """A site on an empty store in a bucket; whoever deploys has a folder of its own, too."""
    home, mine = tmp_path_factory.mktemp("site"), str(tmp_path_factory.mktemp("mine"))

    def own(pool: str) -> dict[str, str]:
        return {place.SCRATCH: str(folders[pool])}

    given = s3.variables | {place.SCRATCH: mine}
    with start_site(home, small.folder, address=ADDRESS, own=own, **given) as started:
        yield started


def test_a_run_completes_and_every_result_lies_in_the_bucket(site, small, folders, s3, stages_of):
    done = site.call("trigger", small.recipe, "--wait", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    ended = json.loads(done.stdout)
    assert ended["state"] == "Completed"
    assert {run.work_pool_name for run in stages_of(ended["flow_run"]).values()} == {"cpu", "gpu"}
    pages = s3.client.get_paginator("list_objects_v2").paginate(Bucket="posttrain", Prefix="site/")
    names = [each["Key"] for page in pages for each in page["Contents"]]
    for stage in ("validate", "filter", "pretrain", "sft", "align", "evaluate", "register"):
        assert [name for name in names if name.startswith(f"site/{stage}/") and name.endswith("/result.json")]
    assert [name for name in names if name.endswith("/report.html")]
    assert not [name for name in names if name.endswith((".lease", ".process.json"))], "left by processes that ended"
    assert list(folders["gpu"].glob("*/align/*/result.json"))
    again = site.call("trigger", small.recipe, "--wait", "--json")
    assert json.loads(again.stdout)["message"].endswith("all stages were reused")
