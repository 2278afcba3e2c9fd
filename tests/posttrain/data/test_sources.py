"""What a recipe may name as an input, and what is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.data.sources import SAMPLES, SourceFile, resolve, source_digest
from schemas.errors import Refusal
from schemas.sources import DataSource

FIELD = "data.preferences"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.parquet", "deep/c.jsonl.gz", "notes.txt", "dataset_info.json"):
        path = tmp_path / "rows" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(name.encode())
    return tmp_path / "rows"


def names(source: object, cache: Path) -> list[str]:
    return [file.name for file in resolve(str(source), FIELD, cache)]


def test_a_path_is_named_by_its_last_part(folder: Path) -> None:
    [file] = resolve(str(folder / "b.jsonl"), FIELD, folder)
    assert file == SourceFile("b.jsonl", str(folder / "b.jsonl"))


def test_a_folder_means_every_supported_file_in_order(folder: Path) -> None:
    assert names(folder, folder) == ["a.parquet", "b.jsonl", "deep/c.jsonl.gz"]


def test_a_glob(folder: Path) -> None:
    assert names(folder / "*.jsonl", folder) == ["b.jsonl"]
    assert names(folder / "**/*.jsonl*", folder) == ["b.jsonl", "deep/c.jsonl.gz"]


def test_a_name_with_brackets_is_a_name(folder: Path) -> None:
    (folder / "x[1].jsonl").write_text("{}")
    assert names(folder / "x[1].jsonl", folder) == ["x[1].jsonl"]


def test_an_fsspec_url(folder: Path) -> None:
    assert names(f"file://{folder}/b.jsonl", folder) == ["b.jsonl"]


def test_memory_urls_can_be_opened_again(folder: Path) -> None:
    """The address of a file found on another file system carries its protocol: the digest of `xy` is read through it."""
    import fsspec

    with fsspec.open("memory://pairs/m.jsonl", "wb") as stream:
        stream.write(b"xy")
    files = resolve("memory://pairs", FIELD, folder)
    assert source_digest(files) == hashlib.sha256(hashlib.sha256(b"xy").digest()).hexdigest()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("missing.jsonl", "nothing at"),
        ("*.nothing", "nothing at"),
        ("notes.txt", "unknown kind"),
        ("*", "unknown kind"),
    ],
)
def test_refusals_name_the_field(folder: Path, source: str, expected: str) -> None:
    with pytest.raises(Refusal, match=expected) as refusal:
        resolve(str(folder / source), FIELD, folder)
    assert refusal.value.where == FIELD


def test_a_misspelled_path_is_corrected(folder: Path) -> None:
    with pytest.raises(Refusal, match=r"did you mean .*b\.jsonl\?"):
        resolve(str(folder / "b.json"), FIELD, folder)


def test_an_empty_file_is_refused(folder: Path) -> None:
    (folder / "empty.jsonl").touch()
    with pytest.raises(Refusal, match=r"empty\.jsonl, an empty file"):
        resolve(str(folder), FIELD, folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="no file of rows in the folder"):
        resolve(str(tmp_path), FIELD, tmp_path)


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="cannot be opened"):
        resolve("nosuch://x/y.jsonl", FIELD, tmp_path)


@pytest.mark.parametrize("source", ["zip://x.jsonl::/etc/hostname", "reference://x.jsonl", "data:,x.jsonl"])
def test_what_a_file_system_cannot_open_is_refused_whatever_it_raises(tmp_path: Path, source: str) -> None:
    with pytest.raises(Refusal, match="cannot be opened"):
        resolve(source, FIELD, tmp_path)


def test_a_link_in_a_folder_leads_nowhere(tmp_path: Path) -> None:
    """A folder of a stranger: a link to a file elsewhere, to a device, to a folder elsewhere, and to itself."""
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.jsonl").write_text("{}\n")
    (tmp_path / "data" / "a.jsonl").write_text("{}\n")
    (tmp_path / "data" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "itself").symlink_to(tmp_path / "data")
    assert [file.name for file in resolve(str(tmp_path / "data"), FIELD, tmp_path)] == ["a.jsonl"]
    for target in (tmp_path / "elsewhere" / "secret.jsonl", "/dev/zero"):
        (tmp_path / "data" / "b.jsonl").unlink(missing_ok=True)
        (tmp_path / "data" / "b.jsonl").symlink_to(target)
        with pytest.raises(Refusal, match=r"b\.jsonl, which is a link, pipe or device"):
            resolve(str(tmp_path / "data"), FIELD, tmp_path)


def test_an_unknown_sample_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="did you mean sample://preferences") as refusal:
        resolve("sample://preference", FIELD, tmp_path)
    assert refusal.value.allowed == ", ".join(f"sample://{name}" for name in SAMPLES)


def test_a_sample_with_other_bytes_is_written_again(tmp_path: Path) -> None:
    """A longer way to train on somebody else's rows: the cache of a shared store."""
    (file,) = resolve("sample://preferences", FIELD, tmp_path)
    whole = Path(file.url).read_bytes()
    Path(file.url).write_bytes(whole.replace(b"good", b"evil", 1))
    resolve("sample://preferences", FIELD, tmp_path)
    assert Path(file.url).read_bytes() == whole
    (tmp_path / "victim").write_bytes(b"mine")
    Path(file.url).unlink()
    Path(file.url).symlink_to(tmp_path / "victim")
    resolve("sample://preferences", FIELD, tmp_path)
    assert ((tmp_path / "victim").read_bytes(), Path(file.url).read_bytes()) == (b"mine", whole)


def test_a_sample_is_written_once(tmp_path: Path) -> None:
    samples = pytest.importorskip("posttrain.data.samples", reason="the sample generator is not in this checkout")
    [first] = resolve("sample://preferences", FIELD, tmp_path)
    written = Path(first.url).stat().st_mtime_ns
    assert resolve("sample://preferences", FIELD, tmp_path) == [first]
    assert Path(first.url).stat().st_mtime_ns == written
    assert [path.name for path in (tmp_path / "samples").iterdir()] == [f"preferences-v{samples.VERSION}.jsonl"]


def test_the_digest_is_of_contents_in_order(folder: Path) -> None:
    a, b, _ = resolve(str(folder), FIELD, folder)
    renamed = SourceFile("other", b.url)
    assert source_digest([a, b]) == source_digest([a, renamed])
    assert source_digest([a, b]) != source_digest([b, a])


def sides(*sources: object, cache: Path) -> dict[str, str | None]:
    given = tuple(source if isinstance(source, DataSource) else str(source) for source in sources)
    return {file.name: file.split for file in resolve(given if len(given) > 1 else given[0], FIELD, cache)}


def rows_in(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("{}")
    return folder


def test_names_decide_the_split_where_one_says_held_out(tmp_path: Path) -> None:
    hub = rows_in(tmp_path / "hub", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "extra.jsonl")
    assert sides(hub, cache=tmp_path) == {
        "data/test-00000-of-00001.parquet": "holdout", "data/train-00000-of-00001.parquet": "train", "extra.jsonl": None,
    }  # fmt: skip
    noted = [file.notes for file in resolve(str(hub), FIELD, tmp_path)]
    assert noted[0] == ("data.preferences: 1 of 3 files are held out, as their names say: data/test-00000-of-00001.parquet",)


def test_training_files_alone_are_split_by_hash_so_that_something_is_held_out(tmp_path: Path) -> None:
    assert sides(rows_in(tmp_path / "a", "train.jsonl"), cache=tmp_path) == {"train.jsonl": None}


def test_a_recipe_chooses_splits_and_says_what_a_single_file_is(tmp_path: Path) -> None:
    folder = rows_in(tmp_path / "a", "train/x.jsonl", "validation/x.jsonl", "test/x.jsonl")
    chosen = DataSource(path=str(folder), split=("train", "validation"))
    assert sides(chosen, cache=tmp_path) == {"train/x.jsonl": "train", "validation/x.jsonl": "holdout"}
    one = rows_in(tmp_path / "b", "my-test.jsonl") / "my-test.jsonl"
    assert sides(one, cache=tmp_path) == {"my-test.jsonl": "holdout"}
    assert sides(DataSource(path=str(one), split="train"), cache=tmp_path) == {"my-test.jsonl": None}
    with pytest.raises(Refusal) as refusal:
        resolve(DataSource(path=str(folder), split="dev"), FIELD, tmp_path)
    assert (refusal.value.where, refusal.value.allowed) == ("data.preferences.split", "test, train, validation")


def test_hidden_cache_and_lock_files_are_skipped_and_named(tmp_path: Path) -> None:
    folder = rows_in(tmp_path / "a", "x.jsonl", "._x.jsonl", ".git/x.jsonl", "cache-1a2b.arrow", "x.jsonl.lock", "README.md")
    [file] = resolve(str(folder), FIELD, tmp_path)
    assert file.name == "x.jsonl"
    skipped = "._x.jsonl (hidden), .git/x.jsonl (hidden), cache-1a2b.arrow (cache or unfinished), x.jsonl.lock"
    assert file.notes == (f"{folder}: not read: {skipped} (cache or unfinished)",)


def test_several_sources_are_told_apart_by_name_and_group(tmp_path: Path) -> None:
    """Two of one name get numbers; a source of one file of its own name is called as it is."""
    for name in ("a/pairs", "b/pairs", "c"):
        rows_in(tmp_path / name, "x.jsonl", "y.jsonl")
    given = (str(tmp_path / "a/pairs"), DataSource(path=str(tmp_path / "b/pairs"), weight=2), str(tmp_path / "c/x.jsonl"))
    files = resolve(given, FIELD, tmp_path)
    assert [(file.name, file.group, file.weight) for file in files] == [
        ("pairs#0/x.jsonl", 0, None), ("pairs#0/y.jsonl", 0, None),
        ("pairs#1/x.jsonl", 1, 2), ("pairs#1/y.jsonl", 1, 2), ("x.jsonl", 2, None),
    ]  # fmt: skip


def test_a_mistake_in_a_list_names_the_place(tmp_path: Path) -> None:
    rows_in(tmp_path, "x.jsonl")
    with pytest.raises(Refusal, match="nothing at") as refusal:
        resolve((str(tmp_path / "x.jsonl"), str(tmp_path / "nothing")), FIELD, tmp_path)
    assert refusal.value.where == "data.preferences.1"


def test_scripts_are_refused_and_never_run(tmp_path: Path) -> None:
    rows_in(tmp_path, "load.py")
    with pytest.raises(Refusal, match="a script: loading it would run its code"):
        resolve(str(tmp_path / "load.py"), FIELD, tmp_path)


def test_what_a_recipe_says_of_files_is_in_their_digest(tmp_path: Path) -> None:
    """A split or a weight changes what is made of the same bytes; the place of a file does not."""
    file = SourceFile("x.jsonl", str(rows_in(tmp_path, "x.jsonl") / "x.jsonl"))
    said = [replace(file, **change) for change in ({}, {"split": "holdout"}, {"weight": 2.0}, {"weight": 3.0}, {"name": "y"})]
    digests = [source_digest([each]) for each in said]
    assert len(set(digests[:4])) == 4
    assert digests[4] == digests[0]
    known = replace(file, url="nowhere://x", identity="someone/pairs@c/x.jsonl")
    assert source_digest([known]) == source_digest([replace(known, url="elsewhere://x")])  # not opened
