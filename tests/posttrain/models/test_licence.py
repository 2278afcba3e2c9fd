"""The licence of a base model is read from its own files, and is None where they do not say."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.models.licence import base_licence
from posttrain.models.policy import Policy


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# Model\n", "apache-2.0"),
        ("---\nlanguage: en\nlicense: 'llama3.1'\n---\n", "llama3.1"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("# Model\n\nlicense: mit\n", None),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\nlicense: unknown\n---\n", None),
        (None, None),
    ],
)
def test_of_a_folder_by_its_card(tmp_path, card, licence):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert base_licence(Policy(str(tmp_path))) == licence


def test_of_a_gguf_file_by_its_metadata(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_license("cc-by-4.0")
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert base_licence(Policy(str(tmp_path), gguf="m.gguf")) == "cc-by-4.0"


def test_a_name_of_the_hub_that_is_not_cached_has_none():
    assert base_licence(Policy("someone/that-nobody-has-fetched")) is None
    assert base_licence(Policy("no name of a repository at all")) is None
