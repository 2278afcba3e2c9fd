"""The terminal: names and texts of others are shown as they are, and neither steer it nor are read as rich's markup."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from posttrain.runtime.redaction import clean


class PlainConsole(Console):
    """A console for which each string is data, in tables too; what is to be styled comes as `Text` or with `style`."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text with control and bidirectional characters spelt out, without secrets and without markup."""
        return super().render_str(clean(text), **options | {"markup": False, "emoji": False, "highlight": False})
