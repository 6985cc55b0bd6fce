"""Whose output folder it is: what a job keeps there until it is done, and how two jobs on one output find out.

A job claims its output by writing a name of its own into `_temporary/started`, and has a folder of that name beside it for
all that is not whole yet. A later job writes its own name there, and then deletes the folders of others. Each file gets its
final name by a move out of its job's folder, after a look at the claim; so whatever a job does after it has lost its claim
fails: either it sees the other name, or its folder is gone. Of two jobs on one output the later wins, and the other ends with
a message. Nothing of this reaches the data set. (On a bucket a move is no single step; between the look and the move lies one
request.)
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from transforms import storage
from transforms.records import InputError

TEMPORARY = "_temporary"
"""The folder, below the output, for what has no final name yet."""
SCRATCH = "scratch"
"""The folder in a job's own for what the workers of one machine keep to themselves."""
STARTED = "started"
PUBLISH_THREADS = 16


class Claim(NamedTuple):
    """One job's claim on an output folder; `job` is empty where transforms write without one."""

    output: str
    job: str = ""

    @classmethod
    def stake(cls, output: str) -> Claim:
        """A new claim, which ends all earlier ones."""
        claim = cls(output, uuid.uuid4().hex)
        storage.make_folder(claim.folder)
        storage.write_bytes(storage.join(output, TEMPORARY, STARTED), claim.job.encode())
        temporary = storage.join(output, TEMPORARY)
        if storage.is_local(output):  # by moves: a job that is still writing there can't come in between
            for name in os.listdir(temporary):
                if name not in (STARTED, claim.job):
                    os.rename(os.path.join(temporary, name), os.path.join(claim.folder, name))
        else:
            own = storage.join(claim.folder, "")
            found = [file.path for file in storage.list_below(temporary)]
            storage.delete([path for path in found if not path.startswith(own) and storage.name_of(path) != STARTED])
        claim.clear()
        return claim

    def clear(self) -> None:
        """Deletes what lies in the job's own folder."""
        if storage.is_local(self.output):
            for name in os.listdir(self.folder):
                path = os.path.join(self.folder, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        else:
            storage.delete([file.path for file in storage.list_below(self.folder)])

    def release(self) -> None:
        """Ends the claim, and leaves nothing temporary behind. Raises `InputError` where it has lapsed."""
        self.check()
        self.clear()
        self.check()
        storage.delete([storage.join(self.output, TEMPORARY, STARTED)])
        if storage.is_local(self.output):
            os.rmdir(self.folder)
            os.rmdir(storage.join(self.output, TEMPORARY))

    def take_away(self, paths: list[str]) -> None:
        """Deletes files of an earlier data set, unless the claim has lapsed."""
        self.check()
        if storage.is_local(self.output):
            moved = [(path, self.temporary_name(path)) for path in paths]
            for path, temporary in moved:
                try:
                    storage.move(path, temporary)
                except Exception:
                    self.check()
                    raise
            paths = [temporary for _, temporary in moved]
        storage.delete(paths)

    @property
    def folder(self) -> str:
        """The job's own folder."""
        return storage.join(self.output, TEMPORARY, *([self.job] if self.job else []))

    def temporary_name(self, name: str) -> str:
        """A path for a file until it is whole; no other attempt at the same file has it."""
        return storage.join(self.folder, f"{storage.name_of(name)}.{uuid.uuid4().hex}")

    def check(self) -> None:
        """Raises `InputError` where the claim no longer stands."""
        if not self.job:
            return
        holder = claimed_by(self.output)
        if holder is None:
            raise InputError(
                f"{self.output}: another job has begun to write there since, and is done; or this one was done before"
            )
        if holder != self.job:
            raise InputError(f"{self.output}: another job has begun to write there since; it goes on, this one ends")

    def publish(self, temporary: str, name: str, size: int, crc32c: int) -> None:
        """Gives a whole file its final name below the output. Raises `OSError` if it is not there then, as it was written."""
        self.check()
        final = storage.join(self.output, name)
        try:
            storage.move(temporary, final)
        except Exception:
            self.check()  # whoever has taken over has deleted it
            raise
        found = storage.if_there(storage.size_and_crc32c, final)
        if found != (size, crc32c):
            there = f"{found[0]} bytes" if found else "nothing"
            raise OSError(f"{final}: what storage has there ({there}) is not what was written ({size} bytes)")

    def publish_all(self, files: Mapping[str, bytes]) -> None:
        """Publishes small files, by name, several at a time: on a bucket each takes half a dozen requests."""
        with ThreadPoolExecutor(PUBLISH_THREADS) as pool:
            list(pool.map(self.publish_bytes, files.keys(), files.values()))

    def publish_bytes(self, name: str, data: bytes) -> None:
        """Writes a small file under a temporary name, and publishes it."""
        temporary = self.temporary_name(name)
        storage.write_bytes(temporary, data)
        self.publish(temporary, name, len(data), storage.crc32c_of(data))


def claimed_by(output: str) -> str | None:
    """The job that has claimed an output; None where there is no claim of ours."""
    found = storage.if_there(storage.read_bytes, storage.join(output, TEMPORARY, STARTED))
    return found.decode() if found and re.fullmatch(rb"[0-9a-f]{32}", found) else None
