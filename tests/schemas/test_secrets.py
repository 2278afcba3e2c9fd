"""Credentials in addresses are blotted out and refused, and nothing else is."""

from __future__ import annotations

import base64
import html
import json
import time
from urllib.parse import quote, quote_plus

import pytest

from schemas.addresses import opened
from schemas.errors import Refusal
from schemas.secrets import holds_secret, without_credentials

CASES = [  # text, what is shown of it, whether a recipe may not have it
    ("a://u:p@host/x y://key@h mail@x.org b://host/@z", "a://***@host/x y://***@h mail@x.org b://host/@z", True),
    ("https://h/x?X-Amz-Signature=abc&part=1", "https://h/x?***&part=1", True),
    ("https://h/x?part=1&access_token=abc", "https://h/x?part=1&***", True),
    ('{"uri": "postgresql://u:p@db/mlflow"}', '{"uri": "postgresql://***@db/mlflow"}', True),
    ("https://h/?password=1&pwd=2&auth=3&code=4&part=5", "https://h/?***&***&***&***&part=5", True),
    ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dy", "mssql+pyodbc:///?***", True),
    ("https://x.blob.core.windows.net/c/f?sv=2024&sig=a%2Fb%3D", "https://x.blob.core.windows.net/c/f?sv=2024&***", True),
    ("https://u:pa/ss@w@host/x", "https://***@host/x", True),
    ("postgresql+psycopg2://u:12/3@db/x", "postgresql+psycopg2://***@db/x", True),
    ("https://ghp_token@github.com/x", "https://***@github.com/x", True),
    ("http://user:${P}@host/x", "http://***@host/x", False),
    ("abfs://container@account.dfs/x", "abfs://***@account.dfs/x", False),
    ("postgresql://user@db/x", "postgresql://***@db/x", False),
    ("postgresql://${U}:${P}@db/x?sig=${S}", "postgresql://${U}:${P}@db/x?sig=${S}", False),
    ("http://host:8080/a@b", "http://host:8080/a@b", False),
    ("https://h/x?author=bob&encoding=utf8&design=1", "https://h/x?author=bob&encoding=utf8&design=1", False),
    ("s3://bucket/keys/file.jsonl", "s3://bucket/keys/file.jsonl", False),
    ("sample://corpus", "sample://corpus", False),
    ("Authorization: Bearer abc.def", "Authorization: Bearer ***", False),
    ("host=db user=u password=hunter2 dbname=x", "host=db user=u password=*** dbname=x", False),
    ("https://h/x#access_token=abc", "https://h/x#***", True),
    ("https://h/x?%73ig=abc&p%61rt=1", "https://h/x?***&p%61rt=1", True),
    ("webhdfs://h/x?delegation=abc", "webhdfs://h/x?***", True),
    ("x-api-key: abc", "x-api-key: ***", False),
    ("found hf_" + "aB3" * 10 + " in it", "found *** in it", True),
]
PGPASSWORD = "p&\"'<w+ /=\\é"


@pytest.mark.parametrize(("text", "shown", "refused"), CASES)
def test_only_credentials_go(text, shown, refused):
    assert without_credentials(text) == shown
    assert holds_secret(text) is refused


def test_what_the_environment_gives_is_hidden_wherever_it_stands(monkeypatch):
    """By the name of the variable, or since an address named it; as it is and as an address spells it."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pass/word")
    monkeypatch.setenv("A_FOLDER", "a-folder")
    assert without_credentials("pass/word pass%2Fword a-folder") == "*** *** a-folder"
    assert opened("file:///${A_FOLDER}/x", "data.corpus") == "file:///a-folder/x"
    assert without_credentials("in a-folder") == "in ***"


@pytest.mark.parametrize("character", [" ", "'", '"', "<"])
def test_a_password_may_hold_what_ends_an_address_in_a_text(character):
    """SQLAlchemy takes all of it up to the @."""
    with pytest.raises(Refusal, match="which holds a credential") as refusal:
        opened(f"postgresql://u:hun{character}ter2@db/x", "tracking.uri")
    assert "ter2" not in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["PGPASSWORD", "MYSQL_PWD", "DB_PASS", "REDISCLI_AUTH", "AZURE_STORAGE_KEY", "AZURE_STORAGE_CONNECTION_STRING"]
)
def test_variables_that_libraries_read_are_hidden(monkeypatch, name):
    monkeypatch.setenv(name, "zz9secret")
    assert without_credentials("a zz9secret b") == "a *** b"


def test_variables_that_are_no_secret_are_not(monkeypatch):
    for name in ("TOKENIZERS_PARALLELISM", "PWD", "KEYBOARD", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "plain-value")
    assert without_credentials("a plain-value b") == "a plain-value b"


@pytest.mark.parametrize(
    "spell",
    [str, quote, quote_plus, lambda v: quote(v, safe=""), json.dumps, repr, html.escape,
     lambda v: base64.b64encode(v.encode()).decode()],
)  # fmt: skip
def test_a_secret_is_hidden_however_it_is_spelt(monkeypatch, spell):
    monkeypatch.setenv("PGPASSWORD", PGPASSWORD)
    assert without_credentials(f"with {spell(PGPASSWORD)} end").replace('"', "").replace("'", "") == "with *** end"


@pytest.mark.parametrize(
    ("address", "said"),
    [("postgresql://u:hunter2@db/x", "which holds a credential"), ("s3://${NOT_SET_AT_ALL}/x", "NOT_SET_AT_ALL is not set")],
)
def test_an_address_that_cannot_be_opened_is_refused_with_the_remedy(address, said):
    with pytest.raises(Refusal, match=said) as refusal:
        opened(address, "DATA")
    assert "hunter2" not in str(refusal.value)
    assert "set " in refusal.value.remedy


@pytest.mark.parametrize("text", ["://a:" * 4000 + "@", "&" + "a" * 20_000, "password" * 4000, "?a=b" * 9000])
def test_no_text_takes_long(text):
    started = time.monotonic()
    without_credentials(text)
    assert time.monotonic() - started < 3
