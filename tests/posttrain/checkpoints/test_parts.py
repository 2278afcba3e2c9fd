"""Code that lies in an adapter's folder is neither run by the round trip nor handed on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from posttrain.checkpoints.export import export
from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.checkpoints.parts import refuse_unexpected
from posttrain.checkpoints.round_trip import reloaded
from posttrain.checkpoints.unmerged import copy_adapter
from posttrain.models.policy import Policy
from posttrain.peft import delta
from posttrain.peft.wrap import save_trained, trainable_state, wrap
from schemas.errors import Refusal
from schemas.peft import BottleneckAdapter

CPU = torch.device("cpu")
OURS = Path(delta.__file__).read_bytes()


@pytest.fixture(scope="module")
def trained(checkpoint, tmp_path_factory) -> Policy:
    """A bottleneck adapter, which peft does not have."""
    start, spec = Policy(str(checkpoint)), BottleneckAdapter(method="bottleneck")
    model = wrap(load_model(start, CPU), spec, 0, "sft.peft")
    for parameter in trainable_state(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("stage")
    save_trained(model, load_tokenizer(start), spec, start, folder)
    return Policy(str(checkpoint), adapters=(folder / "adapter",))


@pytest.fixture
def planted(trained, tmp_path) -> Policy:
    """The same, with code that says whether it ran."""
    folder = Path(shutil.copytree(trained.adapters[0], tmp_path / "planted"))
    (folder / "delta.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n" + OURS.decode())
    (folder / "modeling.py").write_text("")
    return Policy(trained.base, adapters=(folder,))


def test_planted_code_is_neither_run_nor_exported(planted, tmp_path):
    export(planted, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "out" / "adapter" / "delta.py").read_bytes() == OURS
    assert not list((tmp_path / "out").rglob("modeling.py"))


def test_the_round_trip_runs_nothing_that_lies_in_the_folder(planted, trained, tmp_path):
    export(trained, tmp_path / "out")
    shutil.copy(planted.adapters[0] / "delta.py", tmp_path / "out" / "adapter" / "delta.py")
    assert [way for way, _ in reloaded(tmp_path / "out")] == ["adapters on their base"]
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Refusal, match="not the loader that posttrain writes"):
        refuse_unexpected(tmp_path / "out")


def test_code_beside_an_adapter_of_peft_stays_where_it_is(tmp_path):
    """The consumer took `delta.py` wherever it lay."""
    (tmp_path / "adapter").mkdir()
    names = ["adapter_config.json", "adapter_model.safetensors", "lineage.json"]
    for name in (*names, "delta.py", "README.md"):
        (tmp_path / "adapter" / name).write_text("")
    copy_adapter(tmp_path / "adapter", tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == names


@pytest.mark.parametrize("name", ["a.py", "a.pyc", "a.so", "a.bin", "a.pt", "a", "sub/a.sh", ".pth"])
def test_files_of_other_kinds_are_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(Refusal, match="a file of another kind"):
        refuse_unexpected(tmp_path)


def test_links_are_refused(tmp_path):
    (tmp_path / "config.json").symlink_to("/etc/passwd")
    with pytest.raises(Refusal, match=r"config\.json is a link"):
        refuse_unexpected(tmp_path)
