"""`maskbeam run`: checks what can be checked before a job starts, runs it, watches it, and says how it went."""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, NoReturn

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.job.utils import dict_to_struct
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from beam_pipeline import dataflow
from beam_pipeline.dataset_files import MANIFEST, REJECTS, REPORT, SUCCESS
from beam_pipeline.interrupts import TO_DELETE
from beam_pipeline.options import RunOptions, parse_tile
from beam_pipeline.pipeline import build
from beam_pipeline.publish import prepare_output, reject_examples
from beam_pipeline.terminal import Terminal, duration, quiet, watch_progress
from beam_pipeline.trainer_bases import MODEL_GARDEN
from beam_pipeline.trainer_config import check_place
from beam_pipeline.worker_processes import bundles_end_at_once, forked_workers
from transforms import storage
from transforms.categories import read_rules
from transforms.claims import SCRATCH, Claim, claimed_by
from transforms.counters import SHARDS_REUSED
from transforms.records import InputError, ReasonCode
from transforms.sources import AUTO, COCO, OF_COCO, format_of
from transforms.sources.files import find_files
from transforms.sources.recognise import recognise

LOCAL_RUNNERS = frozenset({"FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner", "DirectRunner"})
LOCAL_RUNNER = "FnApiRunner"
"""Beam's `DirectRunner` tries to download another engine, and so runs different ones on different machines."""


WORTH_A_FORK, WORTH_A_PROCESS = 2 << 20, 12 << 20
"""Bytes of annotations for each process: of less, its start takes longer than what it spares. Two that are forked take 0.3 s."""
INPUTS_AND_OUTPUT = ("annotations", "images", "masks", "output")
"""Options that are paths which are looked at before anything else."""


def check_beam_options(left: Sequence[str]) -> list[str]:
    """What our own parser has left over, as flags for Beam. Raises `InputError` for what Beam does not take."""
    from apache_beam.options.pipeline_options import _BeamArgumentParser

    class InOneLine(_BeamArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise InputError(message)

    parser = InOneLine(allow_abbrev=False, add_help=False)
    for cls in {str(cls): cls for cls in PipelineOptions.__subclasses__()}.values():
        cls._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(left))
    if unknown:
        name = unknown[0].split("=", 1)[0]
        known = [f"--{one.name}" for one in dataclasses.fields(RunOptions)] + list(parser._option_string_actions)
        near = difflib.get_close_matches(name, known, 1)
        raise InputError(f"unknown option {name}" + (f": did you mean {near[0]}?" if near else ""))
    return list(left)


def check_paths(options: RunOptions) -> None:
    """Raises `InputError` where the storage of a path is not known or can't be reached, or options contradict each other."""
    if options.resume and options.overwrite:
        raise InputError("--resume keeps what --overwrite replaces: give one of them")
    if options.trainer_config == MODEL_GARDEN and options.mask_encoding == "dense":
        raise InputError(f"--trainer_config {MODEL_GARDEN}: the Model Garden can't read dense masks, choose --mask_encoding png")
    if options.tile and options.tile_overlap >= min(parse_tile(options.tile)):
        raise InputError(f"--tile_overlap is {options.tile_overlap}: expected less than the sides of --tile {options.tile}")
    given = [name for name in INPUTS_AND_OUTPUT if getattr(options, name) is not None]
    for name in given:
        path = getattr(options, name)
        if slip := re.match(r"(gs|s3|azfs):(?!//[^/])", path):  # gs:/bucket would be a folder of this machine
            raise InputError(f"--{name} {path}: expected {slip[1]}://NAME/…")
        try:
            FileSystems.get_filesystem(path)
        except ValueError:
            raise InputError(f"--{name} {path}: no storage of that kind is known here") from None
        except BeamIOError as error:
            cause = next(iter((error.exception_details or {}).values()), error)
            raise InputError(f"--{name} {path}: no storage of that kind is known here: {cause}") from None
    for name, there in zip(given, _look_at(options, given), strict=True):
        if isinstance(there, InputError):
            raise InputError(f"--{name} {there}") from None
        if name in ("images", "masks") and not there:
            raise InputError(f"--{name} {getattr(options, name)}: there is no such folder")


def recognised(options: RunOptions, terminal: Terminal) -> RunOptions:
    """The options with the format of the annotations, which is said. Raises `InputError` where it is not clear."""
    found = recognise(options.annotations)
    terminal.say(f"--format {found.format} {found.why}")
    in_folder = storage.is_folder(options.annotations) and found.path
    return dataclasses.replace(options, format=found.format, annotations=found.path if in_folder else options.annotations)


def check_inputs(options: RunOptions) -> int:
    """Raises `InputError` where the annotations or the image folder are not there, or the output can't be written like that.

    Gives the bytes of the annotations.
    """
    annotation_bytes = _annotation_bytes(options)
    if FileSystems.get_scheme(options.images) is None and not os.path.isdir(options.images):
        raise InputError(f"--images {options.images}: there is no such folder")
    if options.masks and storage.is_local(options.masks) and not os.path.isdir(options.masks):
        raise InputError(f"--masks {options.masks}: there is no such folder")
    if set(options.output) & set("*?[]"):
        raise InputError(f"--output {options.output}: readers take *, ?, [ and ] for patterns, choose a name without")
    if options.categories:
        read_rules(options.categories)
    if options.trainer_config:
        check_place(options.output, options.trainer_config)
    if FileSystems.get_scheme(options.output) is None and os.path.isfile(options.output):
        raise InputError(f"--output {options.output}: that is a file, expected a folder")
    return annotation_bytes


def _annotation_bytes(options: RunOptions) -> int:
    """Of all annotation files, where they are soon counted. Raises `InputError` where there are none."""
    here = f"--annotations {options.annotations}"
    if options.format in OF_COCO and storage.is_local(options.annotations) and os.path.isdir(options.annotations):
        raise InputError(f"{here}: expected a file, or a pattern that files match; for a folder, try --format auto")
    try:
        if options.format not in OF_COCO and not storage.is_local(options.annotations):
            return 0  # a million files take a thousand requests to list, which a worker makes
        if options.format not in OF_COCO:
            return sum(file.bytes for file in find_files(options.annotations, format_of(options.format)))
        found = storage.match(options.annotations)
    except InputError as error:
        raise InputError(f"{here}: {error}") from error
    except Exception as error:
        if storage.is_missing(error):
            found = []
        else:
            raise InputError(f"{here} can't be read: {error}") from error
    if not found:
        raise InputError(f"{here}: there is no such file")
    return sum(file.bytes for file in found)


def _look_at(options: RunOptions, names: Sequence[str]) -> list[bool | InputError]:
    """Whether anything is at each of these paths, as `storage.check` says; all at the same time."""

    def look(name: str) -> bool | InputError:
        path = getattr(options, name)
        try:
            return storage.check(path if name == "annotations" else storage.join(path, ""), only_read=name in ("images", "masks"))
        except InputError as error:
            return error

    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(look, names))


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def may_use_processes(options: RunOptions) -> bool:
    """Whether a job on this machine may come to have several processes."""
    return not options.profile and options.workers != "1" and (options.workers != "auto" or processors() > 1)


def use_processes(options: RunOptions, beam_options: PipelineOptions, annotation_bytes: int, forked: bool) -> bool:
    """Tells Beam how many processes a job on this machine has; gives whether they are to be forked, as they can be if `forked`.

    Raises `InputError` where options contradict each other.
    """
    direct = beam_options.view_as(DirectOptions)
    given = beam_options.get_all_options(drop_default=True)
    if {"direct_num_workers", "direct_running_mode"} & given.keys():
        if options.workers != "auto":
            raise InputError("--workers stands for --direct_num_workers and --direct_running_mode: give it alone")
        return False
    if options.profile:
        if options.workers not in ("auto", "1"):
            raise InputError("--profile looks at one process: leave --workers out")
        return False
    worth = WORTH_A_FORK if forked else WORTH_A_PROCESS
    count = min(processors(), annotation_bytes // worth) if options.workers == "auto" else int(options.workers)
    if count < 2:
        return False
    direct.direct_num_workers = count
    if not forked:
        direct.direct_running_mode = "multi_processing"
    return forked


class Outcome(NamedTuple):
    """What a job has come to: its manifest, and how many shards `--resume` has left as they were."""

    manifest: dict[str, Any]
    shards_reused: int


def run(options: RunOptions, beam_flags: Sequence[str]) -> Outcome | None:
    """Runs the job to its end. Raises `InputError`, or what the runner raises.

    Where nobody waits for a job on Dataflow there is no outcome yet: see `dataflow.run`.
    """
    flags = check_beam_options(beam_flags)
    on_dataflow = dataflow.is_dataflow(flags)
    runner = PipelineOptions(flags).get_all_options().get("runner") or LOCAL_RUNNER
    local = runner in LOCAL_RUNNERS
    if options.verbose:
        logging.basicConfig(level=logging.INFO)
    else:  # it says after the summary that it stops the engine
        logging.getLogger("apache_beam.utils.subprocess_server").setLevel(logging.ERROR)
    FileSystems.set_options(PipelineOptions(flags))  # whose credentials are to be used
    start_worker = None
    with ExitStack() as until_done:
        terminal = until_done.enter_context(quiet(options.verbose))
        if on_dataflow:
            pipeline_options = until_done.enter_context(dataflow.prepared(options, flags))
        else:
            if local:
                until_done.enter_context(bundles_end_at_once())
                if may_use_processes(options):
                    start_worker = until_done.enter_context(forked_workers())  # before there is any thread
            pipeline_options = PipelineOptions([*flags, f"--runner={runner}"])
            idle = "reading annotations" if local else f"the job runs on {runner.removesuffix('Runner')}"
            until_done.enter_context(watch_progress(terminal, idle))
        check_paths(options)
        if options.format == AUTO:
            options = recognised(options, terminal)
        annotation_bytes = check_inputs(options)
        if local:
            if not use_processes(options, pipeline_options, annotation_bytes, forked=start_worker is not None):
                start_worker = None
        else:
            for name, given in {"workers": options.workers != "auto", "profile": options.profile}.items():
                if given:
                    raise InputError(f"--{name} is for jobs on this machine, not on {runner}")
        try:
            pipeline = beam.Pipeline(_runner(runner, pipeline_options, start_worker), pipeline_options)
        except ValueError as error:  # Beam's own checks of its options
            raise InputError(str(error).splitlines()[-1]) from error
        try:
            claim = prepare_output(options.output, options.overwrite, options.resume)
        except (OSError, BeamIOError) as error:
            raise InputError(f"--output {options.output} can't be written: {error}") from error
        with scratch_folder(claim) as scratch:
            busy = local and pipeline_options.view_as(DirectOptions).direct_num_workers >= processors()
            build(pipeline, options, claim, scratch if local else None, busy)
            try:
                if on_dataflow:
                    result = dataflow.run(pipeline, terminal)
                    if result is None:
                        return None
                else:
                    result = pipeline.run()
                    result.wait_until_finish()
            except Exception as error:
                # Whoever has taken over has cleared away what this job was working with; but a claim ends with its job, too.
                if claimed_by(options.output) is not None or claim.job in str(error):
                    claim.check()
                raise
    if not storage.exists(storage.join(options.output, SUCCESS)):
        claim.check()
        raise RuntimeError(f"the runner says that it is done, but {options.output} has no {SUCCESS}")
    manifest: dict[str, Any] = json.loads(storage.read_bytes(storage.join(options.output, MANIFEST)))
    return Outcome(manifest, _counted(result, SHARDS_REUSED))


def _runner(name: str, options: PipelineOptions, start_worker: str | None) -> PipelineRunner | str:
    """The runner of a name. Beam's own, on this machine, would tell workers in processes of their own nothing of the options.

    With a command `start_worker`, it starts each of them by that.
    """
    if name != LOCAL_RUNNER:
        return name
    given = options.get_all_options(drop_default=True).items()
    told = dict_to_struct({key: str(value) if type(value) is int else value for key, value in given})
    provision = ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=told))
    if not start_worker:
        return FnApiRunner(provision_info=provision)
    logging.getLogger(FnApiRunner.__module__).addFilter(lambda record: "direct_running_mode" not in str(record.msg))  # wants one
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string(start_worker), provision_info=provision)


def _counted(result: Any, name: str) -> int:
    """The value of one of our counters; 0 where the runner keeps none, or can't say."""
    try:
        counters = result.metrics().query(MetricsFilter().with_name(name))["counters"]
    except Exception:  # the data set is complete all the same
        return 0
    return sum(counter.result for counter in counters)


@contextmanager
def scratch_folder(claim: Claim) -> Iterator[str]:
    """A folder on this machine for the time of the job.

    It is below the output, where a later job clears it away if this one is killed; or, where the output is a bucket, among
    the system's temporary files.
    """
    if not storage.is_local(claim.output):
        with tempfile.TemporaryDirectory(prefix="maskbeam-") as folder:
            TO_DELETE.add(folder)
            yield folder
            TO_DELETE.discard(folder)
        return
    scratch = storage.join(claim.folder, SCRATCH)
    os.mkdir(scratch)
    yield scratch


def summary(options: RunOptions, outcome: Outcome | None, seconds: float) -> str:
    """What is printed at the end."""
    if outcome is None:
        return f"{options.output} is complete once it has {SUCCESS}; maskbeam verify reads it then"
    manifest = outcome.manifest
    images, annotations, shards = manifest["images"], manifest["annotations"], manifest["shards"]
    lines = [
        f"{images['written']:,} of {images['read']:,} images and {annotations['written']:,} of {annotations['read']:,} "
        f"annotations written in {duration(seconds)} ({images['written'] / max(seconds, 1e-3):,.0f} images/s)"
    ]
    for split in dict.fromkeys(shard["split"] for shard in shards):
        of_split = [shard for shard in shards if shard["split"] == split]
        records, size = sum(shard["records"] for shard in of_split), sum(shard["bytes"] for shard in of_split)
        count = f"{len(of_split)} shard{'s' * (len(of_split) > 1)}"
        lines.append(
            f"  {split}: {records:,} image{'s' * (records != 1)}, {size / 1e6:,.1f} MB in {count}"
            + ("" if records else ": it is empty")
        )
    if options.resume:
        filled = sum(bool(shard["fingerprint"]) for shard in shards)
        lines.append(f"  {outcome.shards_reused} of {filled} shards with images were up to date, and stayed as they were")
    if any(manifest["reasons"].values()):
        lines.append("not written:")
        examples = reject_examples(options.output)
        for kind in ("image", "annotation"):
            for code, count in sorted(manifest["reasons"][kind].items(), key=lambda item: (-item[1], item[0])):
                example = examples.get((kind, code))
                said = f"\n          {example}" if example else ""
                lines.append(f"  {count:>6,} {kind + 's' * (count > 1)}: {code}, {ReasonCode[code].value}{said}")
        lines.append(f"each of them, with its reason, is in {storage.join(options.output, REJECTS)}")
    lines.append(f"to look at: {storage.join(options.output, REPORT)}")
    as_annotated = manifest["options"]["format"] == COCO and not (
        storage.is_pattern(options.annotations) or options.max_side or options.tile
    )
    compare = "" if not as_annotated else f" --coco {shlex.quote(manifest['options']['annotations'])}"
    lines.append(f"next: maskbeam verify {shlex.quote(options.output)}{compare}")
    return "\n".join(lines)
