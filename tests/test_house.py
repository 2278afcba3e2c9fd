"""The house rules that no linter checks: what is packaged, what is declared, and what no file may contain."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "posttrain", "tasks", "flows")
GENERATED = {"constraints.txt", "LICENSE", "deployments/recipe.schema.json"}
WRITTEN = {".py", ".toml", ".yaml", ".yml", ".md", ".j2", ".sh", ""}

# Spelt in halves, so that this file does not name them. Folders of the machine this was written on, and hosts or settings of a
# package index: pip's own configuration decides where packages come from.
FORBIDDEN = re.compile(
    "|".join([r"(?<![\w.-])/" + r"work/", r"(?<![\w.-])/" + r"opt/", "py" + r"pi\.", "python" + "hosted", "index" + "-url"])
)


def project_files() -> list[Path]:
    """Files that git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """Content of a file; bytes that are not UTF-8 cannot match a rule."""
    return path.read_text(encoding="utf-8", errors="replace")


def python_files() -> list[Path]:
    """Python files of the project."""
    return [path for path in project_files() if path.suffix == ".py"]


def test_generic_package_names_resolve_to_this_repository(tmp_path):
    """As a Prefect worker imports them: from another folder, with nothing but the installation to go by."""
    try:
        importlib.metadata.distribution("posttrain")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("posttrain is not installed in this environment")
    code = f"import importlib.util as u; print(*(u.find_spec(n).origin for n in {PACKAGES}), sep='\\n')"
    run = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.splitlines() == [str(ROOT / name / "__init__.py") for name in PACKAGES], run.stderr


def test_no_file_names_this_machine_or_a_package_index():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in project_files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if FORBIDDEN.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "caught"),
    [("/" + "work/main", True), ("see /" + "opt/wheels", True), ("https://py" + "pi.org", True), ("shared/" + "work/x", False)],
)
def test_the_search_finds_what_it_looks_for(line, caught):
    assert bool(FORBIDDEN.search(line)) is caught


def test_every_python_file_says_what_it_is_for():
    assert [str(path.relative_to(ROOT)) for path in python_files() if not ast.get_docstring(ast.parse(text_of(path)))] == []


def test_files_stay_short():
    """300 lines at most: longer files hold more than one idea. Generated files are exempt."""
    written = [path for path in project_files() if path.suffix in WRITTEN and str(path.relative_to(ROOT)) not in GENERATED]
    lengths = {str(path.relative_to(ROOT)): len(text_of(path).splitlines()) for path in written}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_parquet_is_read_by_its_name_and_not_as_a_glob():
    """A store in a folder `x [1]` would have no result in it for polars (its issue 19801)."""
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(text_of(path)))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("pl.read_parquet", "pl.scan_parquet", "polars.read_parquet", "polars.scan_parquet")
        and not any(keyword.arg == "glob" for keyword in node.keywords)
    }
    assert found == set()


def imported_modules() -> set[str]:
    """Top-level modules that the packages import anywhere, inside functions too."""
    modules = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    return modules


def normalised(requirement: str) -> str:
    """`PyYAML>=6` is pyyaml, `pandera[polars]` is pandera."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_what_is_imported_is_declared_and_the_reverse():
    """FastAPI and SQLAlchemy only bound what Prefect takes, pydantic pins its core; an extra may be imported where it is used."""
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    declared = {normalised(line) for line in project["dependencies"]}
    extras = {normalised(line) for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines}
    installed = importlib.metadata.packages_distributions()
    modules = imported_modules() - set(PACKAGES) - {"pydantic_core"}
    # Several distributions may own one module: mlflow, mlflow-skinny and mlflow-tracing.
    owners = {module: {normalised(owner) for owner in installed[module]} for module in modules if module in installed}
    assert [module for module, names in owners.items() if not names & (declared | extras)] == [], "not in pyproject.toml"
    assert declared - {"fastapi", "sqlalchemy"} - set().union(*owners.values()) == set(), "in pyproject.toml but not imported"


def test_constraints_pin_every_dependency_without_a_build():
    """torch==2.13.0+cpu would keep a CUDA machine from its own build, and a path would fail on every other machine."""
    pins = [line for line in text_of(ROOT / "constraints.txt").splitlines() if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    wanted = {normalised(line) for line in (*project["dependencies"], *project["optional-dependencies"]["dev"])}
    assert wanted - {normalised(line) for line in pins} == set()
