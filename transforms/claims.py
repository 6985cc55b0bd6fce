"""Whose output folder it is: what a job keeps there until it is done, and how two jobs on one output find out.

A job claims its output by writing a name of its own into `_temporary/started`; whoever comes later writes another. Before a
file gets its final name, and before the marker is set, a job looks whether its claim still stands. So of two jobs on one
output the later wins, and the other ends with a message. Nothing of this reaches the data set.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

from transforms import storage
from transforms.records import InputError

TEMPORARY = "_temporary"
"""The folder, below the output, for what has no final name yet."""
SCRATCH = "scratch"
"""The folder in it for what the workers of one machine keep to themselves."""
STARTED = "started"


def temporary_name(output: str, name: str) -> str:
    """A path for a file until it is whole; no other attempt at the same file has it."""
    return storage.join(output, TEMPORARY, f"{name}.{uuid.uuid4().hex}")


def publish_file(output: str, name: str, data: bytes) -> None:
    """Writes a small file under a temporary name, and gives it its own."""
    temporary = temporary_name(output, storage.name_of(name))
    storage.write_bytes(temporary, data)
    storage.move(temporary, storage.join(output, name))


class Claim(NamedTuple):
    """One job's claim on an output folder."""

    output: str
    job: str

    @classmethod
    def stake(cls, output: str) -> Claim:
        """A new claim, which ends all earlier ones."""
        claim = cls(output, uuid.uuid4().hex)
        storage.write_bytes(storage.join(output, TEMPORARY, STARTED), claim.job.encode())
        return claim

    def check(self) -> None:
        """Raises `InputError` where another job has claimed the output since, or has published in it."""
        try:
            found = storage.read_bytes(storage.join(self.output, TEMPORARY, STARTED)).decode()
        except Exception as error:
            if not storage.is_missing(error):
                raise
            found = ""
        if found != self.job:
            raise InputError(f"{self.output}: another job has begun to write there since; it goes on, this one ends")
