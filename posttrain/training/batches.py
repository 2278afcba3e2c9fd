"""Which rows each optimizer step trains on: decided before training, from the seed alone, so that a resumed run repeats it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

Plan = list[list[int]]


def shuffled(rows: int, seed: int) -> Iterator[int]:
    """Rows forever, in a new order each epoch."""
    epoch = 0
    while True:
        yield from np.random.default_rng([seed, epoch]).permutation(rows).tolist()
        epoch += 1


def by_rows(rows: int, batch_size: int, epochs: int, seed: int) -> Plan:
    """Steps of `batch_size` rows; the last step of an epoch may be smaller, so that every row is seen `epochs` times."""
    order = shuffled(rows, seed)
    plan = []
    for _ in range(epochs):
        epoch = [next(order) for _ in range(rows)]
        plan += [epoch[i : i + batch_size] for i in range(0, rows, batch_size)]
    return plan


def by_tokens_with_tail(lengths: Sequence[int], tail: int, batch_tokens: int, tokens: int, seed: int) -> Plan:
    """As `by_tokens`, but the last `tail` rows are read after all others, for their share of the tokens: annealing data."""
    if not tail:
        return by_tokens(lengths, batch_tokens, tokens, seed)
    first = len(lengths) - tail
    at_end = round(tokens * sum(lengths[first:]) / max(sum(lengths), 1))
    main = by_tokens(lengths[:first], batch_tokens, tokens - at_end, seed)
    last = ([first + row for row in step] for step in by_tokens(lengths[first:], batch_tokens, at_end, seed))
    return [step for step in (*main, *last) if step]


def by_tokens(lengths: Sequence[int], batch_tokens: int, tokens: int, seed: int) -> Plan:
    """Steps of about `batch_tokens` tokens until `tokens` were seen, repeating the rows as needed."""
    plan: Plan = [[]]
    seen = in_step = 0
    for row in shuffled(len(lengths), seed) if lengths else ():
        if seen >= tokens:
            break
        if plan[-1] and in_step + lengths[row] > batch_tokens:
            plan.append([])
            in_step = 0
        plan[-1].append(row)
        in_step += lengths[row]
        seen += lengths[row]
    return plan
