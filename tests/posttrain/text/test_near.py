"""Near-duplicates: found as often as theory says, removed only where the exact Jaccard index says so, alike in any order."""

from __future__ import annotations

import random
from math import comb

import numpy as np
import pyarrow as pa
import pytest

from posttrain.text.buffers import Buffers, buffers
from posttrain.text.kernels.folding import fold
from posttrain.text.near import LINK, band_hashes, band_records, clusters, joined, links, verified

SHAPES = [(14, 8), (9, 13), (20, 13)]


def arrow(texts: list[str]) -> Buffers:
    return buffers(pa.array(texts, pa.large_string()))


def hashes(texts: list[str], shape: tuple[int, int]) -> np.ndarray:
    return band_hashes(fold(*arrow(texts)), *shape)


def repeated(texts: list[str], threshold: float, shape: tuple[int, int] = (14, 8)) -> dict[int, tuple[int, float]]:
    """Number → kept document and Jaccard index; the numbers of the texts are 0, 1, 2, ..."""
    numbers = np.arange(len(texts))
    found = links(band_records(hashes(texts, shape), numbers))
    parts = [verified(some, lambda wanted: arrow([texts[at] for at in wanted]), *shape, threshold) for some in clusters(found, 1)]
    return {int(n): (int(of), float(j)) for part in parts for n, of, j in part.tolist()}


def jaccard(one: str, other: str) -> float:
    """The index by its definition, of word 5-grams."""
    sets = [{tuple(words[at : at + 5]) for at in range(max(1, len(words) - 4))} for words in (one.split(), other.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def pair(shared: int, own: int, seed: int) -> tuple[str, str]:
    """Two texts with so many 5-grams in common, and as many `own` ones each: the index is shared / (shared + 2 own)."""
    head = [f"c{seed}x{at}" for at in range(shared + 4)]
    return tuple(" ".join(head + [f"{side}{seed}x{at}" for at in range(own)]) for side in "ab")  # type: ignore[return-value]


def band(probability: float, trials: int) -> tuple[int, int]:
    """The narrowest central interval that holds 99% of a binomial distribution."""
    chances = np.cumsum([comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(trials + 1)])
    return int(np.searchsorted(chances, 0.005)), int(np.searchsorted(chances, 0.995))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("shared", "own", "index"), [(100, 50, 0.5), (90, 30, 0.6), (70, 15, 0.7), (80, 10, 0.8), (90, 5, 0.9)])
def test_candidates_are_found_as_often_as_theory_says(shape, shared, own, index) -> None:
    """1 - (1 - J^rows)^bands of 300 pairs, within the interval in which 99% of such counts lie."""
    texts = [text for seed in range(300) for text in pair(shared, own, seed)]
    assert jaccard(texts[0], texts[1]) == index
    found = hashes(texts, shape)
    share = (found[0::2] == found[1::2]).any(axis=1)
    low, high = band(1 - (1 - index ** shape[1]) ** shape[0], 300)
    assert low <= share.sum() <= high


def test_one_percent_of_words_changed_is_found() -> None:
    """200 texts of 600 words, each again with 6 of them changed."""
    rng = random.Random(5)
    texts = []
    for seed in range(200):
        words = [f"w{seed}y{at}" for at in range(600)]
        changed = list(words)
        for at in rng.sample(range(600), 6):
            changed[at] = f"new{at}"
        texts += [" ".join(words), " ".join(changed)]
    found = repeated(texts, 0.7)
    assert len(found) >= 199
    assert all(of == number - 1 for number, (of, _) in found.items())


def chain(count: int) -> list[str]:
    """Texts of which each shares nine tenths of its words with the next, and the first nothing with the last."""
    words = [f"w{at}" for at in range(200 + 20 * count)]
    return [" ".join(words[20 * at : 20 * at + 200]) for at in range(count)]


def test_a_chain_does_not_eat_its_end() -> None:
    """All hang together, but those that are unlike the first are kept, or repeat one that is."""
    texts = chain(12)
    found = repeated(texts, 0.7)
    kept = set(range(12)) - found.keys()
    assert 0 in kept
    assert len(kept) > 3
    for number, (of, index) in found.items():
        assert of in kept
        assert of < number
        assert index == pytest.approx(jaccard(texts[number], texts[of]))
        assert index >= 0.7
    assert jaccard(texts[0], texts[11]) == 0


def test_no_removal_is_below_the_threshold_and_every_one_names_a_kept_document() -> None:
    rng = random.Random(1)
    texts = [" ".join(rng.choice(["a", "b", "c"]) + str(rng.randrange(12)) for _ in range(30)) for _ in range(30)]
    for at in range(300):
        words = texts[at].split()
        words[rng.randrange(len(words))] = f"z{at}"
        texts.append(" ".join(words))
    found = repeated(texts, 0.7)
    assert len(found) > 30
    kept = set(range(len(texts))) - found.keys()
    for number, (of, index) in found.items():
        assert of in kept
        assert of < number
        assert index == pytest.approx(jaccard(texts[number], texts[of]))
        assert index >= 0.7


def test_case_and_white_space_do_not_count_and_the_threshold_is_inclusive() -> None:
    """Of five and of six 5-grams five are common: 5 / 6."""
    texts = ["A b c d e f g h i", "a  B c\nd e f g h i j", "Ä", "a\u0308"]
    assert repeated(texts, 5 / 6, (20, 13)) == {1: (0, 5 / 6), 3: (2, 1.0)}
    assert repeated(texts, 0.84, (20, 13)) == {3: (2, 1.0)}


def test_empty_texts_are_no_candidates() -> None:
    assert not len(band_records(hashes(["", "\u3000 "], (14, 8)), np.arange(2)))


def test_clusters_are_components_in_the_order_of_their_smallest_number() -> None:
    found = np.array([(5, 9), (1, 7), (7, 8), (2, 5), (1, 8), (3, 4)], LINK)
    assert [piece.tolist() for piece in clusters(found, 1)] == [[1, 7, 8], [2, 5, 9], [3, 4]]
    assert [piece.tolist() for piece in clusters(found, 4)] == [[1, 2, 5, 7, 8, 9], [3, 4]]
    assert [piece.tolist() for piece in clusters(found[::-1], 100)] == [[1, 2, 3, 4, 5, 7, 8, 9]]
    assert clusters(np.empty(0, LINK), 1) == []


def test_links_of_many_bands_are_joined_a_piece_at_a_time_to_one_for_each_document() -> None:
    """7-8 and 9-7 hang together only by the second piece; 2-5 is told by every band."""
    pieces = [np.array([(2, 5)] * 14 + [(8, 9), (1, 7)], LINK), np.empty(0, LINK), np.array([(7, 8), (2, 5), (3, 4)], LINK)]
    found = joined(pieces)
    assert found.tolist() == [(3, 4), (2, 5), (1, 7), (1, 8), (1, 9)]
    assert [piece.tolist() for piece in clusters(found, 1)] == [[1, 7, 8, 9], [2, 5], [3, 4]]
    assert joined([]).tolist() == []


def test_documents_that_share_many_bands_have_one_link() -> None:
    texts = [" ".join(map(str, range(100))) + f" {last}" for last in "abc"]  # J = 96 / 98
    assert links(band_records(hashes(texts, (20, 13)), np.array([4, 2, 9]))).tolist() == [(2, 4), (2, 9)]
