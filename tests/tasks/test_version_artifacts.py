"""What MLflow has of a version against the digests in its tags: one changed byte of any of its files is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest

from posttrain.models.policy import folder_digest
from schemas.errors import Refusal
from tasks.tracking import connect, own_tracking
from tasks.version_artifacts import REST, prove_version, rest_digest
from tests.tasks.served import save_chat_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A chat model as MLflow keeps it."""
    return save_chat_model(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def version(saved, root):
    """A version of `house` that lies in `saved`: its URI and its tags."""
    client = connect(own_tracking(root), root)
    client.create_registered_model("house")
    number = client.create_model_version("house", saved.as_uri()).version
    uri, whole = f"models:/house/{number}", folder_digest(saved / "artifacts" / "checkpoint")
    return uri, {"artifact.checkpoint": whole, f"artifact.{REST}": rest_digest(uri, ["checkpoint"])}


def test_every_file_is_covered_by_one_digest(saved, version):
    """A byte of each is flipped in turn; afterwards all is well, as before."""
    uri, tags = version
    prove_version(uri, tags)
    files = sorted(path for path in saved.rglob("*") if path.is_file())
    names = {str(path.relative_to(saved)) for path in files}
    assert {"MLmodel", "consumer.py", "requirements.txt", "artifacts/chat_server.py"} <= names
    assert "artifacts/checkpoint/model.safetensors" in names
    for path in files:
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(
            Refusal, match="checkpoint is" if path.parent.name == "checkpoint" else "files beside its folders are"
        ):
            prove_version(uri, tags)
        path.write_bytes(content)
    prove_version(uri, tags)


def test_a_file_too_many_and_one_too_few_are_found(saved, version):
    uri, tags = version
    more = saved / "artifacts" / "more.py"
    more.write_text("import os\n")
    with pytest.raises(Refusal, match="files beside its folders"):
        prove_version(uri, tags)
    more.unlink()
    readme = saved / "requirements.txt"
    content = readme.read_bytes()
    readme.unlink()
    with pytest.raises(Refusal, match="files beside its folders"):
        prove_version(uri, tags)
    readme.write_bytes(content)


def test_a_served_model_writes_nothing_beside_itself_that_counts(saved, version):
    """MLflow notes the name of a version in a copy that it loads."""
    uri, tags = version
    mlflow.pyfunc.load_model(uri)
    prove_version(uri, tags)


def test_what_python_compiles_beside_the_code_is_named_and_not_compared(saved, version):
    """As it does when a version is loaded straight from MLflow's folder; another Python would write other bytes."""
    uri, tags = version
    for folder in (saved, saved / "artifacts" / "checkpoint"):
        (folder / "__pycache__").mkdir(exist_ok=True)
        (folder / "__pycache__" / "code.cpython-311.pyc").write_bytes(b"compiled")
    found = prove_version(uri, tags)
    assert {"__pycache__/code.cpython-311.pyc", "artifacts/checkpoint/__pycache__/code.cpython-311.pyc"} <= {*found}
    for folder in (saved, saved / "artifacts" / "checkpoint"):
        shutil.rmtree(folder / "__pycache__")
    assert prove_version(uri, tags) == []


def test_a_version_of_before_is_compared_as_far_as_its_tags_go(saved, version):
    """It has no digest of the rest, which was changed here; this is the last test of the module."""
    uri, tags = version
    (saved / "consumer.py").write_text((saved / "consumer.py").read_text() + "\n")
    prove_version(uri, {"artifact.checkpoint": tags["artifact.checkpoint"], "posttrain.key": "x"})
    prove_version(uri, {})
    with pytest.raises(Refusal, match="files beside"):
        prove_version(uri, tags)
