"""The report: complete, self-contained, safe against hostile samples, and the same from the same inputs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from posttrain.report.build import write_report
from posttrain.report.decision import verdict
from schemas.recipe import Recipe
from schemas.results import Failure, RunReport

DATE = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
SECTIONS = {"gates", "evaluation", "stages", "data", "training", "samples", "costs", "lineage", "recipe"}
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, ids, attribute values and the text of a page; fails on a tag that is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.cells: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"] and data.strip():
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def page(recipe: Recipe, run: RunReport, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(recipe, run, folders, tmp_path_factory.mktemp("page") / "out/report.html", written=DATE))


def test_header_names_verdict_model_and_date(page: Page, run: RunReport) -> None:
    assert ("class", "verdict passed") in page.attributes
    assert run.promotion in page.text
    assert "2026-03-04 05:06 UTC" in page.text
    assert "2 min 11 s, 2 of 7 stages reused" in page.text  # 131.2 s; validate and filter
    assert 'model = mlflow.pyfunc.load_model("models:/reviews@champion")' in page.text


def test_every_section_stands(page: Page) -> None:
    assert set(page.ids) >= SECTIONS


@pytest.mark.parametrize(
    "words",
    [
        "✓ passed win_rate_vs_sft 0.71 0.655 to 0.765 interval above 0.5",
        "✓ passed perplexity_ratio_vs_base 1.066 – ≤ 1.1",  # noqa: RUF001
        "perplexity 12,346 – per token",  # noqa: RUF001
        "against champion: 0.52 (0.455 to 0.585)",
        # Curve: 900 steps of 4,096 tokens in 900 x 0.05 = 45 s: 3,686,400 tokens, 81,920 tokens/s.
        "900 3,686,400 81,920 1.25",
        "pretrain 1 min 20 s built",
        "documents in 12,000 (100%) kept 9,500 (79.17%) words 900 (7.5%)",
        "quarantined 10 (0.08%)",  # 10 of 12,000 is 0.0833%
        # Pairs: 2,000 - (40 + 25 + 12 + 8 + 61) = 1,854, of which a tenth is held out.
        "kept 1,854 (92.7%)",
        "1,669 to train on, 185 held out",
        "conflict drop 8 0.4% 1% ✓ ok pairs.jsonl:68",
        "The chosen response is the longer one in 58.3% of the pairs.",
        "base (KL not measured)",
        "kept: at least 50 and at most 100,000",
        "arc_easy acc 500 5 sft 0.61 0.57 to 0.65 -0.01 -0.03 to 0.01 7 / 12 0.3593",
        "margin 0.008 → 1.6",  # 1.6 x 1/200 and 1.6 x 200/200
    ],
)
def test_numbers_are_written_out(page: Page, words: str) -> None:
    """Values of conftest.py, formatted by hand."""
    assert words in page.text


def test_hostile_text_stays_text(page: Page) -> None:
    """The best sample is `<script>alert(1)</script><img …>`: readable, and no element of the page."""
    assert "<script>alert(1)</script><img src=x onerror=alert(2)> & \"quotes\" 'single'" in page.text
    assert page.tags["script"] == page.tags["img"] == 0
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_best_and_worst_are_shown_in_order(page: Page) -> None:
    """Rewards 9 and -9 were planted."""
    best, worst = page.text.index("Best against sft"), page.text.index("Worst against sft")
    assert "reward 9 <script>" in page.text[best:worst]
    assert "reward -9 worst of all" in page.text[worst : worst + 600]
    assert page.tags["article"] == 6 + 3 + 3 + 2  # and the worst answer of each source


def test_page_needs_nothing_from_outside(page: Page) -> None:
    assert page.tags["link"] == page.tags["iframe"] == 0
    references = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action", "data")]
    assert references
    assert all(value.startswith("#") for value in references)


def test_ids_are_unique_and_every_reference_has_its_target(page: Page) -> None:
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    inner = [value[1:] for name, value in page.attributes if name == "href"]
    inner += [target for _, value in page.attributes for target in re.findall(r"url\(#([^)]+)\)", value)]
    assert len([name for name in inner if name.startswith("f")]) > 50
    assert set(inner) <= set(page.ids)


def test_same_inputs_give_the_same_bytes(recipe: Recipe, run: RunReport, folders: dict[str, Path], tmp_path: Path) -> None:
    first, second = (write_report(recipe, run, folders, tmp_path / name, written=DATE) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()


def test_passwords_of_addresses_are_blotted_out(page: Page) -> None:
    assert "hunter2" not in page.text
    assert "s3://***@bucket/corpus" in page.text
    assert '"http://***@mlflow:5000"' in page.text


def test_refused_run_without_later_stages(recipe: Recipe, run: RunReport, folders: dict[str, Path], tmp_path: Path) -> None:
    """A failed gate colours the verdict; the stages that never ran are named."""
    failed = run.gates[3].model_copy(update={"value": 0.9, "passed": False})
    refused = run.model_copy(
        update={
            "gates": (*run.gates[:3], failed),
            "model": None,
            "stages": run.stages[:6],
            "promotion": "Refused: kl_per_token 0.9 is above 0.5.",
        }
    )
    page = Page(write_report(recipe, refused, folders, tmp_path, written=DATE))
    assert ("class", "verdict refused") in page.attributes
    assert "✗ refused kl_per_token 0.9 0.2 to 0.228 ≤ 0.5" in page.text
    assert "register – did not run" in page.text  # noqa: RUF001
    assert "nothing was registered" in page.text


def test_a_run_that_failed_says_where_and_what_to_do_at_the_top(
    recipe: Recipe, run: RunReport, folders: dict[str, Path], tmp_path: Path
) -> None:
    """In evaluation, so that no gate was measured."""
    error = Failure(stage="evaluate", message="OSError: no space", remedy="mend the cause; then run the same command again")
    told = {"status": "failed", "error": error, "gates": (), "model": None, "stages": run.stages[:5],
            "promotion": "the run failed in evaluate: OSError: no space"}  # fmt: skip
    page = Page(write_report(recipe, run.model_copy(update=told), folders, tmp_path, written=DATE))
    assert ("class", "verdict failed") in page.attributes
    assert "✗ failed the run failed in evaluate: OSError: no space What to do: mend the cause; then run" in page.text
    assert "The run failed before its gates were measured." in page.text
    assert "register – did not run" in page.text  # noqa: RUF001


def test_missing_stages_and_files_only_leave_sections_out(recipe: Recipe, run: RunReport, tmp_path: Path) -> None:
    bare = run.model_copy(update={"stages": (), "gates": (), "model": None, "promotion": "Nothing ran."})
    empty = tmp_path / "sft"
    empty.mkdir()
    page = Page(write_report(recipe, bare, {"sft": empty}, tmp_path, written=DATE))
    assert SECTIONS & set(page.ids) == {"gates", "stages", "costs", "recipe"}
    assert page.tags["svg"] == 0


def test_verdict_table(recipe: Recipe, run: RunReport) -> None:
    """Champion: passed. Challenger: held. Gate failed, or nothing registered against the recipe: refused."""
    assert run.model
    challenger = run.model_copy(update={"model": run.model.model_copy(update={"alias": "challenger"})})
    unregistered = run.model_copy(update={"model": None})
    asks_for_none = recipe.model_copy(update={"registry": None})
    assert verdict(recipe, run) == "passed"
    assert verdict(recipe, challenger) == "held"
    assert verdict(recipe, unregistered) == "refused"
    assert verdict(asks_for_none, unregistered) == "passed"
    assert verdict(asks_for_none, unregistered.model_copy(update={"gates": ()})) == "held"


def test_importing_the_builder_leaves_matplotlib_alone() -> None:
    code = "import sys, posttrain.report.build; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
