"""What a curve and a histogram keep when they are made small."""

from __future__ import annotations

import math

import numpy as np

from posttrain.report.curves import filter_histograms, stage_curves, thinned


def test_a_spike_survives_thinning() -> None:
    """3,000 zeros with one 5 at step 1,777: at most 300 points, in order, and the 5 among them."""
    xy = np.stack([np.arange(3000.0), np.zeros(3000)], axis=1)
    xy[1777, 1] = 5
    kept = thinned(xy)
    assert len(kept) <= 300
    assert [1777, 5] in kept.tolist()
    assert (np.diff(kept[:, 0]) > 0).all()


def test_short_curves_stay_whole() -> None:
    xy = np.random.default_rng(0).normal(size=(300, 2))
    assert thinned(xy) is xy


def test_a_diverged_stage_is_drawn_and_named() -> None:
    """The loss ends in NaN; a metric that is absent from every point has no figure."""
    charts = stage_curves("sft", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}])
    assert [(chart.title, chart.note) for chart in charts] == [
        ("loss", "A held-out loss that rises while the other falls is overfitting. loss 2 → nan.")
    ]


def test_thresholds_in_and_beyond_the_bins() -> None:
    """Both limits are written; only the one inside the bins 0 to 3 is drawn, as one line and one shaded band."""
    metric = {"edges": [0.0, 1.0, 2.0, 3.0], "counts": [5, 3, 1], "min": 1.5, "max": 50.0}
    without = {**metric, "min": None}
    one, none = (filter_histograms({"words": m})[0] for m in (metric, without))
    assert one.note == "Documents by this metric; kept: at least 1.5 and at most 50."
    assert "#c2413a" in one.svg
    assert "#c2413a" not in none.svg


def test_axes_name_their_units() -> None:
    """A loss of tokens is in nats; a metric of documents whose name has no unit gets one."""
    points = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    assert [">nats per token</text>" in stage_curves(stage, points)[0].svg for stage in ("sft", "align")] == [True, False]
    metric = {"edges": [0.0, 1.0, 2.0], "counts": [5, 3], "min": None, "max": None}
    named = {"mean_word_length": "mean word length, characters", "top_2gram_characters": "top 2gram characters, share of all",
             "words": "words, number", "hash_per_word": "hash per word"}  # fmt: skip
    for figure in filter_histograms(dict.fromkeys(named, metric)):
        assert f">{named[figure.title]}</text>" in figure.svg


def test_a_metric_without_documents_has_no_figure() -> None:
    assert filter_histograms({"words": {"edges": [0, 1], "counts": [0], "min": None, "max": None}}) == []
