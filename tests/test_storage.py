"""Storage on this machine: round trips, listings, what is missing, and awkward names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import pytest
from apache_beam.io.filesystem import BeamIOError

from transforms import storage
from transforms.records import InputError
from transforms.storage import StoredFile

NAMES = [
    "plain.txt",
    "two words",
    "日本 é😀",
    "ha#sh",
    "per%20cent",
    "~tilde",
    "back\\slash",
    "new\nline",
    "a&b=c;d,e'f",
    "-dash",
    "x" * 200,
]
GLOB_NAMES = ["star*", "question?", "set[1].json", "[", "]", "{a,b}", "**"]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def listed(folder: Path | str) -> list[tuple[str, int]]:
    return [(os.path.basename(file.path), file.bytes) for file in storage.list_folder(str(folder))]


def error_of(function: Callable[..., object], *arguments: object) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - is_missing is to tell what it is
        function(*arguments)
    return caught.value


# --------------------------------------------------------------------------------------------------- reading, writing


@pytest.mark.parametrize("name", NAMES + GLOB_NAMES)
@pytest.mark.parametrize("data", [b"", b"\x00\r\n\xff" * 1000])
def test_what_is_written_is_read(tmp_path: Path, name: str, data: bytes) -> None:
    path = storage.join(str(tmp_path), name)
    assert not storage.exists(path)
    storage.write_bytes(path, data)
    assert storage.exists(path)
    assert storage.read_bytes(path) == data
    assert (tmp_path / name).read_bytes() == data


@pytest.mark.parametrize(("told", "size"), [(0, 0), (0, 5), (5, 3_000_000), (3_000_000, 5)])
def test_a_file_is_read_to_its_end_whatever_its_size_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: int, size: int
) -> None:
    """Which it may not be any more when it is read."""
    (tmp_path / "file").write_bytes(data := os.urandom(size))
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result([0] * 6 + [told] + [0] * 3))
    taken: list[int] = []
    assert storage.read_bytes(str(tmp_path / "file"), taken.append) == data
    assert taken == [told]


def test_writing_replaces_what_was_there(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    storage.write_bytes(path, b"long content")
    storage.write_bytes(path, b"short")
    assert storage.read_bytes(path) == b"short"


def test_writing_makes_no_folder(tmp_path: Path) -> None:
    """A job whose folder has been taken away must notice."""
    with pytest.raises(FileNotFoundError):
        storage.write_bytes(str(tmp_path / "a" / "file"), b"x")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.json.gz", "a.zst"])
def test_nothing_is_compressed_or_unpacked_by_its_name(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    storage.write_bytes(path, b"plain")
    assert (tmp_path / name).read_bytes() == storage.read_bytes(path) == b"plain"


def test_a_file_is_read_from_anywhere_in_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)))
    with storage.open_read(str(tmp_path / "file")) as file:
        file.seek(200)
        assert file.read(3) == bytes([200, 201, 202])
        file.seek(5)
        assert file.read(1) == b"\x05"
        assert len(file.read()) == 250


def test_a_range_is_what_it_was_when_its_checksum_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)))
    expected = google_crc32c.value(bytes(range(10, 30)))
    assert storage.read_range(str(path), 10, 20, expected) == bytes(range(10, 30))
    assert storage.read_range(str(path), 10, 0, 0) == b""
    for changed in (bytes(256), b"short"):
        path.write_bytes(changed)
        with pytest.raises(InputError, match="file has changed while it was read"):
            storage.read_range(str(path), 10, 20, expected)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_the_checksum_of_a_file(tmp_path: Path, size: int) -> None:
    data = (b"\x00\r\n\xff0123456789" * 300_000)[:size]
    (tmp_path / "file").write_bytes(data)
    assert storage.size_and_crc32c(str(tmp_path / "file")) == (len(data), google_crc32c.value(data))


def test_the_checksum_of_what_is_not_there_is_missing(tmp_path: Path) -> None:
    assert storage.is_missing(error_of(storage.size_and_crc32c, str(tmp_path / "nothing")))


def test_a_file_is_written_piece_by_piece(tmp_path: Path) -> None:
    with storage.open_write(str(tmp_path / "file")) as file:
        for piece in (b"a", b"", b"bc"):
            file.write(piece)
    assert (tmp_path / "file").read_bytes() == b"abc"


def test_an_exception_while_writing_is_handed_on(tmp_path: Path) -> None:
    def broken() -> None:
        with storage.open_write(str(tmp_path / "file")) as file:
            file.write(b"a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()


# ------------------------------------------------------------------------------------------------------------- missing


@pytest.mark.parametrize("name", ["nothing", "nothing/below", "file/below", "folder", "日本", "set[1]", "a*"])
def test_what_is_no_file_is_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    path = storage.join(str(tmp_path), name)
    assert storage.is_missing(error_of(storage.read_bytes, path))
    assert storage.exists(path) == (name == "folder")


@pytest.mark.parametrize(
    ("error", "missing"),
    [
        (FileNotFoundError(2, "No such file or directory"), True),
        (BeamIOError("List operation failed", {"gs://b/x": FileNotFoundError("gs://b/x")}), True),
        (BeamIOError("Open failed", {"a": BeamIOError("inner", {"b": FileNotFoundError("x")})}), True),
        (PermissionError(13, "Permission denied"), False),
        (OSError("503 Service Unavailable"), False),
        (OSError(28, "No space left on device"), False),
        (BeamIOError("Open failed", {"a": OSError("429 Too Many Requests")}), False),
        (BeamIOError("Open failed"), False),
        (BeamIOError("Delete failed", {"a": 503}), False),
        (TimeoutError(), False),
        (ValueError("truncated"), False),
    ],
)
def test_which_errors_say_that_a_file_is_missing(error: Exception, missing: bool) -> None:
    assert storage.is_missing(error) is missing


def test_a_file_that_may_not_be_read_is_not_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "file").chmod(0)
    if os.access(tmp_path / "file", os.R_OK):
        pytest.skip("this user may read everything")
    assert not storage.is_missing(error_of(storage.read_bytes, str(tmp_path / "file")))


@pytest.mark.parametrize("message", ["Your default credentials were not found.", "host not found", "/404 not found/a.jpg: 503"])
def test_errors_that_only_mention_not_found_are_not_missing_files(message: str) -> None:
    assert not storage.is_missing(OSError(message))


# ------------------------------------------------------------------------------------------------------------ listings


def test_a_folder_is_listed_with_sizes_and_without_what_is_below(tmp_path: Path) -> None:
    names = [".hidden", *(name for name in NAMES + GLOB_NAMES if "\\" not in name)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"x" * number)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "below").write_bytes(b"x")
    expected = sorted((name, number) for number, name in enumerate(names))
    assert listed(tmp_path) == expected
    assert listed(f"{tmp_path}/") == expected


def test_a_name_with_a_backslash_is_listed(tmp_path: Path) -> None:
    (tmp_path / "back\\slash").write_bytes(b"x")
    assert listed(tmp_path) == [("back\\slash", 1)]


@pytest.mark.parametrize("name", ["nothing", "nothing/below", "file", "empty"])
def test_a_folder_that_is_missing_or_empty_lists_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    assert storage.list_folder(str(tmp_path / name)) == []


def test_a_relative_folder_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert storage.list_folder("folder") == [StoredFile("folder/file", 1)]
    assert listed(".") == []
    assert listed("./folder") == [("file", 1)]


def test_a_pattern_matches_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b1.json", "a2.json", "a1.json", "a1.txt", "folder/a3.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = storage.match(f"{tmp_path}/a*.json")
    assert found == [StoredFile(str(tmp_path / name), 7) for name in ("a1.json", "a2.json")]
    assert storage.match(f"{tmp_path}/nothing*") == []
    assert storage.match(f"{tmp_path}/nothing") == []
    assert len(storage.match(f"{tmp_path}/**.json")) == 4


@pytest.mark.parametrize("name", NAMES + GLOB_NAMES)
def test_a_file_is_found_by_its_own_name_and_deleted_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_bytes(b"below")
    path = storage.join(str(tmp_path), name)
    assert storage.match(path) == [StoredFile(path, 3)]
    storage.delete([path])
    assert names_in(tmp_path) == ["folder"]
    assert names_in(tmp_path / "folder") == [name]


def test_a_set_in_brackets_is_found_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "set[1].json").write_bytes(b"abc")
    assert storage.match(str(tmp_path / "set[1].json")) == [StoredFile(str(tmp_path / "set[1].json"), 3)]


@pytest.mark.parametrize(("name", "other"), [("run*", "run1"), ("run?", "run1"), ("run[12]", "run1")])
def test_deleting_a_path_with_glob_characters_deletes_nothing_else(tmp_path: Path, name: str, other: str) -> None:
    (tmp_path / name).write_bytes(b"abc")
    (tmp_path / other).write_bytes(b"precious")
    storage.delete([str(tmp_path / name)])
    assert names_in(tmp_path) == [other]


@pytest.mark.parametrize("name", ["run*", "run?", "run[12]"])
def test_a_folder_with_glob_characters_is_listed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_bytes(b"abc")
    (tmp_path / "run1").mkdir()
    (tmp_path / "run1" / "other").write_bytes(b"x")
    assert listed(tmp_path / name) == [("file", 3)]


def test_a_relative_pattern_without_a_folder_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a1.json").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert storage.match("a*.json") == [StoredFile("a1.json", 1)]


# --------------------------------------------------------------------------------------------- moving, making, deleting


@pytest.mark.parametrize("name", NAMES + GLOB_NAMES)
def test_a_file_is_moved_and_replaces_what_was_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "temporary").mkdir()
    source, target = tmp_path / "temporary" / name, tmp_path / name
    for content in (b"first", b"second"):
        source.write_bytes(content)
        storage.move(str(source), str(target))
        assert target.read_bytes() == content
        assert not source.exists()


def test_moving_what_is_not_there_fails_and_leaves_the_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"x")
    with pytest.raises(BeamIOError):
        storage.move(str(tmp_path / "nothing"), str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == b"x"


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    storage.make_folder(str(folder))
    (folder / "file").write_bytes(b"x")
    storage.make_folder(str(folder))
    assert names_in(folder) == ["file"]


def test_a_folder_that_another_worker_makes_in_between_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    answers = iter([False, True])
    monkeypatch.setattr(storage, "exists", lambda path: next(answers))
    storage.make_folder(str(folder))
    assert next(answers, None) is None


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError, match="Not a directory"):
        storage.make_folder(str(tmp_path / "file" / "folder"))


def test_files_and_folders_are_deleted(tmp_path: Path) -> None:
    for name in ("a", "b", "folder/below/c", "kept"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    storage.delete([])
    storage.delete([str(tmp_path / name) for name in ("a", "b", "folder")])
    assert names_in(tmp_path) == ["kept"]


def test_deleting_what_is_not_there_fails(tmp_path: Path) -> None:
    with pytest.raises(BeamIOError):
        storage.delete([str(tmp_path / "nothing")])


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("folder", "names", "expected"),
    [
        ("/a", ("b",), "/a/b"),
        ("/a/", ("b", "c"), "/a/b/c"),
        ("a", ("b",), "a/b"),
        ("/a", ("",), "/a/"),
        ("/a b#%", ("ü*[",), "/a b#%/ü*["),
        ("gs://bucket", ("b",), "gs://bucket/b"),
        ("gs://bucket/a/", ("b", "c"), "gs://bucket/a/b/c"),
    ],
)
def test_paths_are_joined(folder: str, names: tuple[str, ...], expected: str) -> None:
    assert storage.join(folder, *names) == expected
