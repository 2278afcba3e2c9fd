"""Credentials in addresses are blotted out, and nothing else is."""

from __future__ import annotations

import pytest

from schemas.secrets import without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a://u:p@host/x y://key@h mail@x.org b://host/@z", "a://***@host/x y://***@h mail@x.org b://host/@z"),
        ("https://h/x?X-Amz-Signature=abc&part=1", "https://h/x?***&part=1"),
        ("https://h/x?part=1&access_token=abc", "https://h/x?part=1&***"),
        ('{"uri": "postgresql://u:p@db/mlflow"}', '{"uri": "postgresql://***@db/mlflow"}'),
        ("s3://bucket/keys/file.jsonl", "s3://bucket/keys/file.jsonl"),
        ("sample://corpus", "sample://corpus"),
    ],
)
def test_only_credentials_go(text, shown):
    assert without_credentials(text) == shown
