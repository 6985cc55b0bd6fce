"""`maskbeam run`: checks what can be checked before a job starts, runs it, watches it, and says how it went."""

from __future__ import annotations

import difflib
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipeline.options import RunOptions
from beam_pipeline.pipeline import build
from beam_pipeline.publish import MANIFEST, prepare_output
from transforms import progress, storage
from transforms.records import InputError, ReasonCode
from transforms.shards import TEMPORARY

LOCAL_RUNNERS = frozenset({"FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner", "DirectRunner"})
LOCAL_RUNNER = "FnApiRunner"
"""Beam's `DirectRunner` tries to download another engine, and so runs different ones on different machines."""


def check_beam_options(left: Sequence[str]) -> list[str]:
    """What our own parser has left over, as flags for Beam. Raises `InputError` for what Beam does not know."""
    from apache_beam.options.pipeline_options import _BeamArgumentParser

    parser = _BeamArgumentParser(allow_abbrev=False, add_help=False)
    for cls in {str(cls): cls for cls in PipelineOptions.__subclasses__()}.values():
        cls._add_argparse_args(parser)
    try:
        _, unknown = parser.parse_known_args(list(left))
    except SystemExit:  # the parser has said why
        raise InputError("one of Beam's options has a value that it does not take") from None
    if unknown:
        from dataclasses import fields

        name = unknown[0].split("=", 1)[0]
        known = [f"--{one.name}" for one in fields(RunOptions)] + list(parser._option_string_actions)
        near = difflib.get_close_matches(name, known, 1)
        raise InputError(f"unknown option {name}" + (f": did you mean {near[0]}?" if near else ""))
    return list(left)


def check_inputs(options: RunOptions) -> None:
    """Raises `InputError` where the annotations or the image folder are not there."""
    try:
        found = storage.match(options.annotations)
    except Exception as error:
        if storage.is_missing(error):
            found = []
        else:
            raise InputError(f"--annotations {options.annotations} can't be read: {error}") from error
    if not found:
        raise InputError(f"--annotations {options.annotations}: there is no such file")
    if FileSystems.get_scheme(options.images) is None and not os.path.isdir(options.images):
        raise InputError(f"--images {options.images}: there is no such folder")
    if FileSystems.get_scheme(options.output) is None and os.path.isfile(options.output):
        raise InputError(f"--output {options.output}: that is a file, expected a folder")


def run(options: RunOptions, beam_flags: Sequence[str]) -> dict[str, Any]:
    """Runs the job to its end and returns its manifest. Raises `InputError`, or what the runner raises."""
    flags = check_beam_options(beam_flags)
    check_inputs(options)
    pipeline_options = PipelineOptions(flags)
    if not pipeline_options.get_all_options().get("runner"):
        pipeline_options = PipelineOptions([*flags, f"--runner={LOCAL_RUNNER}"])
    if not options.verbose:
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    prepare_output(options.output, options.overwrite)
    local = pipeline_options.get_all_options()["runner"] in LOCAL_RUNNERS
    with watch_progress(), scratch_folder(options.output) as scratch:
        pipeline = beam.Pipeline(options=pipeline_options)
        build(pipeline, options, scratch if local else None)
        pipeline.run().wait_until_finish()
    manifest: dict[str, Any] = json.loads(storage.read_bytes(storage.join(options.output, MANIFEST)))
    return manifest


@contextmanager
def scratch_folder(output: str) -> Iterator[str]:
    """A folder on this machine for the time of the job.

    It is below the output, where a later job clears it away if this one is killed; or, where the output is a bucket, among
    the system's temporary files.
    """
    if FileSystems.get_scheme(output) is not None:
        with tempfile.TemporaryDirectory(prefix="maskbeam-") as folder:
            yield folder
        return
    scratch = storage.join(output, TEMPORARY, "scratch")
    os.makedirs(scratch, exist_ok=True)
    yield scratch


# ---------------------------------------------------------------------------------------------------------- terminal


def progress_line(read: int, done: int, seconds: float) -> str:
    """One line on how far the job has come, `seconds` after the first image."""
    if not read:
        return "reading annotations"
    if not done or seconds < 1:
        return f"{done:,} of {read:,} images"
    rate = done / seconds
    left = max(0, read - done) / rate
    return f"{done:,} of {read:,} images, {rate:,.0f} images/s, {duration(left)} left"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def watch_progress() -> Iterator[None]:
    """Shows how far the job has come: a live line on a terminal, else a plain line every half minute."""
    live = sys.stderr.isatty()
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="maskbeam-") as folder:
        os.environ[progress.FOLDER_VARIABLE] = folder

        def show() -> None:
            began: float | None = None
            while not stop.wait(0.2 if live else 30.0 if began else 5.0):
                done = progress.read(folder, progress.IMAGES_DONE)
                if done and began is None:
                    began = time.monotonic()
                line = progress_line(
                    progress.read(folder, progress.IMAGES_READ), done, time.monotonic() - (began or time.monotonic())
                )
                print(f"\r\x1b[K{line}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            if live:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            del os.environ[progress.FOLDER_VARIABLE]


def summary(options: RunOptions, manifest: dict[str, Any], seconds: float) -> str:
    """What is printed at the end."""
    images, annotations, shards = manifest["images"], manifest["annotations"], manifest["shards"]
    size = sum(shard["bytes"] for shard in shards)
    by_split = {shard["split"]: 0 for shard in shards}
    for shard in shards:
        by_split[shard["split"]] += 1
    lines = [
        f"{images['written']:,} of {images['read']:,} images and {annotations['written']:,} of {annotations['read']:,} "
        f"annotations written in {duration(seconds)} ({images['written'] / max(seconds, 1e-3):,.0f} images/s)",
        f"{len(shards)} shards, {size / 1e6:,.1f} MB: " + ", ".join(f"{name} {count}" for name, count in by_split.items()),
    ]
    if any(manifest["reasons"].values()):
        lines.append("not written:")
        for kind in ("image", "annotation"):
            for code, count in sorted(manifest["reasons"][kind].items(), key=lambda item: (-item[1], item[0])):
                lines.append(f"  {count:>7,} {kind}{'s' if count > 1 else ' '}  {code}: {ReasonCode[code].value}")
        lines.append(f"each of them, with its reason, is in {storage.join(options.output, 'rejects.jsonl')}")
    lines.append(f"next: maskbeam verify {options.output}")
    return "\n".join(lines)
