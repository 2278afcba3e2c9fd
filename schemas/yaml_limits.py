"""YAML of bounded size: a few hundred bytes of aliases stand for millions of values, and deep nesting ends the parser's stack."""

from __future__ import annotations

from typing import Any

import yaml

from schemas.errors import Refusal
from schemas.text import short

BYTES = 1_000_000  # of a file
VALUES = 50_000  # with each alias counted as what it stands for
DEPTH = 30  # recipes have 6
DIGITS = 100  # characters of a number: `0xfff...` and `1:1:1...` make one that takes minutes, and that Python will not print
NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
MERGE = "tag:yaml.org,2002:merge"  # `<<`, which takes in another mapping and may come again


class _Limited(yaml.SafeLoader):
    """PyYAML's safe loader, which stops at the limits."""

    place = ""

    def compose_document(self) -> Any:
        self.weights: dict[int, int] = {}
        self.depth = 0
        return super().compose_document()

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line, alias = event.start_mark.line + 1, isinstance(event, yaml.AliasEvent)
        self.depth += 1
        if self.depth > DEPTH:
            raise _over(self.place, line, f"values nested over {DEPTH} deep", f"at most {DEPTH} levels")
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if node.tag in NUMBERS and len(node.value) > DIGITS:
            raise _over(self.place, line, f"a number of {len(node.value):,} characters", f"numbers of at most {DIGITS}",
                        "put the value in quotes, or correct it")  # fmt: skip
        if alias and id(node) not in self.weights:
            raise _over(self.place, line, "an alias inside of what it stands for", "aliases of what is complete before them")
        if isinstance(node, yaml.MappingNode) and not alias:
            _refuse_twice(node, self.place)
        if not alias:
            self.weights[id(node)] = 1 + sum(self.weights[id(part)] for part in _parts(node))
        if self.weights[id(node)] > VALUES:
            raise _over(self.place, line, f"over {VALUES:,} values, with each alias counted as what it stands for",
                        f"at most {VALUES:,}")  # fmt: skip
        return node


def _parts(node: yaml.Node) -> list[yaml.Node]:
    """The nodes inside a node; those of a mapping are pairs."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _refuse_twice(node: yaml.MappingNode, place: str) -> None:
    """A key that comes again: PyYAML would drop the first value without a word, and YAML 1.2 (3.2.1.1) wants keys that differ."""
    lines: dict[tuple[str, str], int] = {}
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != MERGE):
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in lines:
            found = f"{short(key.value)} a second time, after line {lines[name]}"
            raise _over(place, line, found, "each key once", "keep one of the two")
        lines[name] = line


def _over(place: str, line: int, found: str, allowed: str, remedy: str = "write the document without them") -> Refusal:
    return Refusal(where=f"{place}:{line}" if place else "YAML", found=found, allowed=allowed, remedy=remedy)


def read(text: str, place: str) -> Any:
    """The document in a YAML text; `place` is named in refusals.

    Raises:
        Refusal: when it is longer, deeper or larger than the limits.
        yaml.YAMLError: when it is no YAML.
        ValueError: for a number or a date that is none (`2024-99-99`), or what is not of the type that it names (`!!bool x`).
    """
    if len(text) > BYTES:
        raise Refusal(
            where=place, found=f"{len(text):,} characters", allowed=f"at most {BYTES:,}", remedy="name a recipe, not a data file"
        )
    loader = _Limited(text)
    loader.place = place
    try:
        return loader.get_single_data()
    except (AttributeError, KeyError, OverflowError, TypeError) as error:  # of PyYAML's constructors
        raise ValueError(f"a value that is not of its type ({error})") from error
    finally:
        loader.dispose()
