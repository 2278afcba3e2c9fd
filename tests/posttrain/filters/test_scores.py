"""What is told of documents besides metrics: each rule at its limit, the column and the reason; the counts balance."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from posttrain.data.sources import SourceFile
from posttrain.filters.corpus import filter_corpus
from posttrain.filters.redecide import redecide
from schemas.errors import Refusal
from schemas.filtering import Filtering

EN = "The committee met on Tuesday to discuss the new library and nobody objected to the plan"
DE = "Der Ausschuss traf sich am Dienstag, um die neue Bibliothek zu besprechen, und niemand war dagegen"
FR = "Le comité s'est réuni mardi pour parler de la nouvelle bibliothèque et personne ne s'y est opposé"


class Ran:
    """A filter run over rows, and the same decisions from its metrics."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]], asked: dict[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / "c.jsonl"
        path.write_text("".join(json.dumps({"id": f"d{at}", **row}) + "\n" for at, row in enumerate(rows)))
        filtering = Filtering.model_validate({"preset": "none", **asked})
        self.out = folder / "out"
        self.numbers = filter_corpus([SourceFile("c.jsonl", str(path))], filtering, 0.1, self.out)
        self.kept, self.rejected = (pl.read_parquet(self.out / f"{name}.parquet") for name in ("kept", "rejected"))
        self.summary = json.loads((self.out / "summary.json").read_text())
        self.reasons = dict(self.rejected.select("id", "reasons").iter_rows())
        assert self.kept.height + self.rejected.height + self.summary["quarantined"] == len(rows)
        redecide(self.out, filtering, folder / "again")
        again = pl.read_parquet(folder / "again" / "decisions.parquet").filter(~pl.col("kept"))
        assert dict(again.select("id", "reasons").iter_rows()) == self.reasons

    def column(self, name: str) -> dict[str, Any]:
        both = pl.concat([part.select("id", name) for part in (self.kept, self.rejected)])
        return dict(both.iter_rows())


def texts(*some: str) -> list[dict[str, Any]]:
    return [{"text": text} for text in some]


def test_languages(tmp_path) -> None:
    ran = Ran(tmp_path, texts(EN, DE, FR, "1234 5678"), {"language": {"keep": ["en", "de"], "min_score": 0, "scores": {"de": 1}}})
    assert ran.column("language") == {"d0": "en", "d1": "de", "d2": "fr", "d3": "und"}
    assert ran.reasons == {"d1": ["language_score < 1.0"], "d2": ["language fr"], "d3": ["language und"]}
    assert ran.column("language_score")["d0"] > 0.8


@pytest.mark.parametrize("action", ["mask", "drop"])
def test_personal_data(tmp_path, action: str) -> None:
    """Neither the kept nor the rejected rows hold it; lines are counted after it is masked."""
    ran = Ran(tmp_path, texts("write to a@b.com or 10.0.0.1", EN), {"personal": {"kinds": ["email"], "action": action}})
    assert ran.reasons == ({} if action == "mask" else {"d0": ["personal_data > 0"]})
    assert ran.column("text")["d0"] == "write to [EMAIL] or 10.0.0.1"
    assert ran.column("personal_data") == {"d0": 1, "d1": 0}
    assert ran.summary["placeholders"] == 1


def test_masked_documents_are_copies(tmp_path) -> None:
    ran = Ran(tmp_path, texts("write to a@b.com", "write to c@d.org"), {"personal": {}})
    assert ran.reasons == {"d1": ["duplicate"]}


@pytest.mark.parametrize("remove", [True, False])
def test_contamination(tmp_path, remove: bool) -> None:
    """The question has 16 words, of which the document repeats 13 running; and is named with its row."""
    (tmp_path / "eval.jsonl").write_text(json.dumps({"id": 1, "turns": [{"content": EN}]}) + "\n")
    asked = {"decontaminate": {"against": str(tmp_path / "eval.jsonl"), "remove": remove}}
    ran = Ran(tmp_path, texts(" ".join(EN.split()[:13]) + " yesterday", " ".join(EN.split()[:12]) + " yesterday", DE), asked)
    assert ran.reasons == ({"d0": ["contaminated"]} if remove else {})
    assert ran.column("contaminated_by") == {"d0": "eval.jsonl:1", "d1": None, "d2": None}
    assert ran.column("contaminated_runs") == {"d0": 1, "d1": 0, "d2": 0}
    assert ran.column("contaminated_share") == pytest.approx({"d0": 13 / 14, "d1": 12 / 13, "d2": 0})
    assert ran.summary["contaminated"] == {"eval.jsonl": 1}


def test_quality_from_given_documents(tmp_path) -> None:
    words = [EN.split(), DE.split()]
    for name, own in zip(("good", "bad"), words, strict=True):
        rows = [json.dumps({"text": " ".join(own[at % 5 : at % 5 + 9])}) for at in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    given = {"good": str(tmp_path / "good.jsonl"), "bad": str(tmp_path / "bad.jsonl")}
    ran = Ran(tmp_path, texts(EN, DE, EN + " " + DE), {"quality": given | {"keep": 0.9}})
    score = ran.column("quality")
    assert score["d0"] > 0.95 > 0.9 > score["d2"] > 0.1 > 0.05 > score["d1"]
    assert ran.reasons == {"d1": ["quality < 0.9"], "d2": ["quality < 0.9"]}
    again = Ran(tmp_path / "again", texts(EN, DE, EN + " " + DE), {"quality": given | {"keep": 0.9}})
    assert again.column("quality") == score


def test_listed_words(tmp_path) -> None:
    """Two of four words, one of them a phrase of two; the limit itself is kept."""
    (tmp_path / "list.txt").write_text("Bad\nvery naughty\n\n")
    rows = texts("a bad word here", "very naughty, indeed so", "very nice naughty", "bad bad good good")
    ran = Ran(tmp_path, rows, {"dirty_words": {"words": str(tmp_path / "list.txt"), "max": 0.25}})
    assert ran.column("dirty_word_share") == {"d0": 0.25, "d1": 0.5, "d2": 0, "d3": 0.5}
    assert ran.reasons == {"d1": ["dirty_word_share > 0.25"], "d3": ["dirty_word_share > 0.25"]}


def test_divergence_by_hand(tmp_path) -> None:
    """Corpus a a a b: shares 3/4 and 1/4. KL of `a a` is ln(1 / .75), of `a b` it is .5 ln(.5 / .75) + .5 ln(.5 / .25)."""
    ran = Ran(tmp_path, texts("a a", "a b"), {"divergence": {"percentile": 50}, "dedup": {"exact": False}})
    expected = {"d0": math.log(4 / 3), "d1": 0.5 * math.log(2 / 3) + 0.5 * math.log(2)}
    assert ran.column("divergence") == pytest.approx(expected)
    assert ran.reasons == {}  # the higher of two is their 50th percentile
    rows = texts(*["a b c d"] * 20, "x y z u")
    ran = Ran(tmp_path / "outlier", rows, {"divergence": {"percentile": 95}, "dedup": {"exact": False}})
    assert list(ran.reasons) == ["d20"]
    assert ran.reasons["d20"][0].startswith("divergence > ")


def test_the_newest_of_an_address(tmp_path) -> None:
    """A newer one that no rule rejects; scheme, www, fragment and a last slash make no difference."""
    rows = [
        {"text": "first of a", "url": "http://www.a.org/x/"},
        {"text": "only b", "url": "https://b.org/x"},
        {"text": "second of a", "url": "https://A.org/x#part"},
        {"text": "no", "url": "https://a.org/x"},
        {"text": "without one", "url": None},
    ]
    ran = Ran(tmp_path, rows, {"dedup": {"url": True}, "rules": {"words": {"min": 2}}})
    assert ran.reasons == {"d0": ["duplicate_url"], "d3": ["words < 2"]}
    assert ran.column("url")["d2"] == "https://A.org/x#part"
    assert dict(ran.rejected.select("id", "duplicate_of").iter_rows())["d0"] == "d2"


def test_one_document_has_all_its_reasons(tmp_path) -> None:
    rows = [{"text": f"{DE} a@b.com", "url": "http://x.org"}, {"text": EN, "url": "http://x.org"}]
    ran = Ran(tmp_path, rows, {"language": {"keep": ["en"]}, "personal": {"action": "drop"}, "rules": {"words": {"max": 16}}})
    assert ran.reasons == {"d0": ["words > 16", "language de", "personal_data > 0"]}


@pytest.mark.parametrize(
    ("asked", "where", "said"),
    [
        ({"language": {"keep": ["en", "qq"]}}, "filtering.language.keep", "'qq'"),
        ({"quality": {"model": "/nowhere/at/all"}}, "filtering.quality.model", "config.json"),
        ({"perplexity": {"model": "/nowhere/at/all"}}, "filtering.perplexity.model", "config.json"),
        ({"dirty_words": {"words": "/nowhere/at/all"}}, "filtering.dirty_words.words", "not there"),
        ({"decontaminate": {"against": "/nowhere/at/all"}}, "filtering.decontaminate.against", "/nowhere"),
        ({"quality": {"good": "/nowhere/a", "bad": "/nowhere/b"}}, "filtering.quality.good", "/nowhere/a"),
        ({"mixture": {"by": "language", "shares": {"en": 1}}}, "filtering.mixture.by", "filtering.language"),
    ],
)
def test_refused_before_a_document_is_read(tmp_path, asked: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(Refusal) as caught:
        Ran(tmp_path, texts(EN), asked)
    assert caught.value.where == where
    assert said in str(caught.value)


@pytest.mark.parametrize("asked", [{"good": "a"}, {"good": "a", "bad": "b", "model": "c"}, {}])
def test_a_classifier_comes_from_one_place(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either good and bad documents, or a model"):
        Filtering.model_validate({"quality": asked})


@pytest.mark.parametrize(
    ("before", "now", "where"),
    [
        ({}, {"language": {}}, "filtering.language"),
        ({"personal": {"kinds": ["email"]}}, {"personal": {"kinds": ["ip"]}}, "filtering.personal"),
        ({}, {"divergence": {}}, "filtering.divergence"),
        ({}, {"dedup": {"against": "x"}}, "filtering.dedup.against"),
    ],
)
def test_what_was_not_told_is_not_decided_by(tmp_path, before: dict[str, Any], now: dict[str, Any], where: str) -> None:
    ran = Ran(tmp_path, texts(EN), before)
    with pytest.raises(Refusal) as caught:
        redecide(ran.out, Filtering.model_validate({"preset": "none", **now}), tmp_path / "other")
    assert caught.value.where == where


def test_other_limits_without_reading_texts(tmp_path) -> None:
    ran = Ran(tmp_path, texts(EN, DE, "a@b.com wrote this"), {"language": {}, "personal": {}})
    asked = {"preset": "none", "language": {"keep": ["de"]}, "personal": {"action": "drop"}}
    redecide(ran.out, Filtering.model_validate(asked), tmp_path / "other")
    rows = pl.read_parquet(tmp_path / "other" / "decisions.parquet").select("id", "reasons").rows()
    why = {name: reasons or [] for name, reasons in rows}
    assert Counter(len(each) for each in why.values())[0] == 1
    assert why["d0"] == ["language en"]
    assert "personal_data > 0" in why["d2"]


def test_tokens_of_a_tokenizer_and_by_bytes(tmp_path) -> None:
    """`the cat` has two words, and 7 bytes: two tokens of four."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    mixture = {"by": "source", "shares": {"*": 1}}
    for given, counts in ((None, [2, 4]), (str(tmp_path), [2, 4]), (str(tmp_path / "tokenizer.json"), [2, 4])):
        asked = {"mixture": mixture | {"tokenizer": given}}
        ran = Ran(tmp_path / str(given).replace("/", "_"), texts("the cat", "a b c d" if given else "thirteen byte"), asked)
        assert list(ran.column("tokens").values()) == counts
        assert set(ran.kept["phase"]) == {"main"}
