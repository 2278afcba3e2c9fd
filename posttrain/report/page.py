"""Fills a template of this folder: one self-contained HTML file without scripts, external files or network addresses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from posttrain.report import text
from posttrain.runtime.writing import write_atomically
from schemas.secrets import without_credentials


def write_page(template: str, target: Path, content: Mapping[str, Any]) -> None:
    """Render a template into a file, which is replaced atomically. Texts are escaped; a name that is not there is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=text.number,
        share=text.share,
        duration=text.duration,
        interval=text.interval,
        limits=text.limits,
        safe_address=without_credentials,
    )
    write_atomically(target, environment.get_template(template).render(content))
