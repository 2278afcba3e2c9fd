"""The section `filtering` as a document: it reads back as the same rules."""

from __future__ import annotations

import pytest

from schemas.filtering import Filtering


@pytest.mark.parametrize(
    "document",
    [{}, {"preset": "c4"}, {"preset": "c4", "rules": {"sentences": {"min": 3}, "words": None}, "lines": {"min_words": None}}],
)
def test_a_document_reads_back_as_the_same_rules(document: dict[str, object]) -> None:
    """A rule that is switched off is null; one that is left to the preset is not there."""
    filtering = Filtering.model_validate(document)
    again = Filtering.model_validate(filtering.document())
    assert (again.resolved(), again.resolved_lines()) == (filtering.resolved(), filtering.resolved_lines())


def test_off_and_left_out_are_told_apart() -> None:
    assert Filtering.model_validate({"rules": {"words": None}}).document() != Filtering().document()
