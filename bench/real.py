"""`--model` and `--pairs`: a real checkpoint, and its pairs as the tokens that the product makes of them, for all sides.

Run as `python -m bench.real FOLDER`. TRL's own encoding ends a response with what the template writes behind the end token (a
line break in ChatML), so rows go to it as tokens too: losses can only be compared on the same ones.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import polars as pl

from bench.flops import Shape
from bench.workload import TokenRow, Workload, write_token_rows
from posttrain.checkpoints.load import load_config, load_tokenizer
from posttrain.data.collect import collect
from posttrain.data.encode import encode_conversations
from posttrain.data.kinds import KINDS
from posttrain.data.packing import Example
from posttrain.data.reviews import draw_item, review
from posttrain.data.sources import resolve
from posttrain.models.policy import Policy
from posttrain.runtime.device import resolve_dtype
from schemas.errors import Refusal
from schemas.recipe import Compute

LONGEST = 400  # tokens of a prompt with one response
PROMPT_SENTENCES, RESPONSE_SENTENCES = (3, 12), (2, 9)


def write(workload: Workload, folder: Path) -> None:
    """Link the model as `model/` and write its rows in training order.

    Raises:
        Refusal: when model or pairs cannot be read, the arithmetic does not suit the machine, or there are too few pairs.
    """
    assert workload.model
    resolve_dtype(Compute(device=workload.device, dtype=workload.dtype))  # type: ignore[arg-type]
    policy = Policy(workload.model)
    load_config(policy)
    (folder / "model").symlink_to(policy.base)
    _refuse_other_shapes(folder)
    table = pairs_of(workload.pairs, folder) if workload.pairs else generated(workload.distinct)
    encoded = encode_conversations(table, load_tokenizer(policy), LONGEST, "--pairs", "truncate")
    if len(encoded.examples) < workload.distinct:
        wanted = f"{workload.distinct} examples for {workload.steps} steps"
        raise Refusal(where="--pairs", found=encoded.summary(), allowed=wanted, remedy="lower --steps, or give more")
    write_token_rows([_token_row(each) for each in encoded.examples[: workload.distinct]] * workload.passes, folder)


def _refuse_other_shapes(folder: Path) -> None:
    """Refuse a model whose operations `flops.py` cannot count."""
    try:
        Shape.read(folder / "model")
    except KeyError as missing:
        raise Refusal(
            where="--model", found=f"a config without {missing}", allowed="a decoder of Llama's kind", remedy="take another model"
        ) from missing


def pairs_of(address: str, scratch: Path) -> pl.DataFrame:
    """The pairs of a file, in any shape that a recipe may name; rows that cannot be read are refused."""
    table, bad, _ = collect(KINDS["preferences"], resolve(address, "--pairs", scratch))
    if bad:
        raise Refusal(
            where="--pairs",
            found=f"{len(bad)} rows that are no pairs: {bad[0]}",
            allowed="prompt, chosen and rejected",
            remedy="mend the rows",
        )
    return table


def generated(count: int, seed: int = 0) -> pl.DataFrame:
    """A few reviews' sentences to read and two reviews to choose from; the seed fixes every word."""
    random_state = random.Random(seed)

    def sentences(least_and_most: tuple[int, int]) -> str:
        return review(random_state, draw_item(random_state), random_state.randint(*least_and_most))

    def row() -> dict[str, list[dict[str, str]]]:
        prompt = [{"role": "user", "content": f"{sentences(PROMPT_SENTENCES)} Write another review."}]
        chosen, rejected = ([{"role": "assistant", "content": sentences(RESPONSE_SENTENCES)}] for _ in range(2))
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}

    return pl.DataFrame([row() for _ in range(count)])


def _token_row(example: Example) -> TokenRow:
    prompt, chosen, rejected = (tokens.tolist() for tokens in (example.prompt, *example.branches))
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def main() -> None:
    """Write them beside the workload's description; exit code 2 where the user's files are refused."""
    parser = argparse.ArgumentParser(description="Write the rows of a real model for every side.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    try:
        write(Workload.read(folder), folder)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
