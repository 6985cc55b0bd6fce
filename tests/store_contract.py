"""What buckets of any kind do; who inherits it has the fixtures `server` and `folder`."""

from __future__ import annotations

import google_crc32c
import pytest
from storage_server import FaultyServer

from transforms import storage
from transforms.storage import StoredFile

NAMES = ["plain.txt", "two words", "日本 é😀", "ha#sh", "per%20cent", "a&b=c;d,e'f+", "star*", "set[1].json", "question?"]
BLOB = bytes(range(256)) * 5000


def kind_of_error(function: object, *arguments: object) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which it is, is the question
        function(*arguments)
    return caught.value


def publish_and_read(path: str) -> None:
    """What a job does with each of its files."""
    with storage.open_write(f"{path}.tmp") as file:
        file.write(BLOB)
    storage.move(f"{path}.tmp", path)
    assert storage.size_and_crc32c(path) == (len(BLOB), google_crc32c.value(BLOB))
    assert storage.read_bytes(path) == BLOB


class StoreContract:
    @pytest.mark.parametrize("name", NAMES)
    def test_what_is_written_is_read_found_moved_and_deleted(self, folder: str, name: str) -> None:
        path, other = storage.join(folder, name), storage.join(folder, "moved", name)
        assert not storage.exists(path)
        storage.write_bytes(path, BLOB)
        assert storage.exists(path)
        assert storage.read_bytes(path) == BLOB
        assert storage.read_range(path, 1000, 500, google_crc32c.value(BLOB[1000:1500])) == BLOB[1000:1500]
        assert storage.size_and_crc32c(path) == (len(BLOB), google_crc32c.value(BLOB))
        assert storage.match(path) == storage.list_folder(folder) == [StoredFile(path, len(BLOB))]
        storage.move(path, other)
        assert not storage.exists(path)
        assert storage.read_bytes(other) == BLOB
        assert storage.list_below(folder) == [StoredFile(other, len(BLOB))]
        assert storage.list_folder(folder) == []
        storage.delete([other, path])
        assert storage.list_below(folder) == []

    def test_a_block_that_raises_writes_nothing(self, folder: str) -> None:
        def broken() -> None:
            with storage.open_write(f"{folder}/file") as file:
                file.write(b"x")
                raise ZeroDivisionError

        assert isinstance(kind_of_error(broken), ZeroDivisionError)
        assert storage.list_folder(folder) == []

    def test_listings_are_of_one_folder_without_the_markers_that_consoles_make(self, folder: str) -> None:
        names = ["a.json", "b.json", "sub/c.json", "", "sub/"]
        for name in names:
            storage.write_bytes(f"{folder}/{name}", b"abc")
        expected = [StoredFile(f"{folder}/{name}", 3) for name in ("a.json", "b.json")]
        assert storage.list_folder(folder) == storage.list_folder(f"{folder}/") == storage.match(f"{folder}/*.json") == expected
        assert [file.path for file in storage.match(f"{folder}/**.json")] == [f"{folder}/{name}" for name in names[:3]]
        assert storage.match(f"{folder}/x*") == storage.list_folder(f"{folder}/nothing") == []

    @pytest.mark.parametrize("bucket", ["bkt", "nope"])
    def test_what_is_not_there_is_missing(self, server: FaultyServer, folder: str, bucket: str) -> None:
        path = folder.replace("bkt", bucket) + "/nothing"
        for function in (storage.read_bytes, storage.open_read, storage.size_and_crc32c):
            assert storage.is_missing(kind_of_error(function, path))
        assert storage.is_missing(kind_of_error(storage.move, path, f"{folder}/other"))
        assert not storage.exists(path)
        assert storage.match(path) == []
        storage.delete([path])
        assert not any(server.faults.values())

    def test_reading_takes_one_request_and_one_connection_serves_all(self, server: FaultyServer, folder: str) -> None:
        for number in range(5):
            storage.write_bytes(f"{folder}/{number}", b"x")
        server.plan()
        for number in range(5):
            storage.read_bytes(f"{folder}/{number}")
        assert server.requests == {"GET data": 5}
        assert server.connections <= 1
