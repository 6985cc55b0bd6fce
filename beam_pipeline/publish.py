"""Publish: what lies beside the shards, the balance of the ledger, and the success marker, last of all."""

from __future__ import annotations

import fnmatch
import heapq
import html
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import apache_beam as beam
import msgspec

from beam_pipeline import __version__
from beam_pipeline.dataset_files import (
    GARDEN_CONFIG,
    LABEL_MAP,
    LABEL_MAP_CSV,
    MANIFEST,
    OURS,
    PIPELINE_CONFIG,
    REJECTS,
    REPORT,
    SHARDS,
    STATISTICS,
    STATISTICS_PB,
    SUCCESS,
    TFDS_FEATURES,
    TFDS_INFO,
)
from beam_pipeline.options import RunOptions
from beam_pipeline.tfds import tfds_features, tfds_info
from beam_pipeline.tfdv_statistics import statistics_pb
from beam_pipeline.trainer_bases import MODEL_GARDEN
from beam_pipeline.trainer_config import facts_of, make_config
from transforms import counters, events, storage
from transforms.claims import TEMPORARY, Claim, claimed_by
from transforms.examples import LabelMap
from transforms.records import ITS_IMAGE_WAS_REJECTED, Category, Census, InputError, ReasonCode, Reject, pack
from transforms.sharding import ShardPlan, stable_hash
from transforms.shards import STATES, ShardSummary, state_name
from transforms.sources import OF_COCO
from transforms.statistics import DatasetStatistics

REJECT_BUCKETS = 16
EXAMPLES_AMONG = 100_000  # of rejects, which takes a fifth of a second
NO_REPORT = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><title>No report</title>
<p>The data set is complete, but its report could not be made, which is a fault of maskbeam's: {why}</p>
"""


# ------------------------------------------------------------------------------------------------- before the job


def prepare_output(output: str, overwrite: bool, resume: bool = False) -> Claim:
    """Claims an output folder, or raises `InputError` where there is something that must not be lost.

    A data set is there if its manifest or marker is. What a job that was broken off has left is ours to clear away: it
    shows by the temporary folder, which is made before the first file and goes after the marker is set. What is to be
    replaced stays until `clear_output`.
    """
    names = [storage.name_of(file.path) for file in storage.list_folder(output)]
    broken_off = claimed_by(output) is not None
    if not overwrite:
        complete = SUCCESS in names or (MANIFEST in names and not broken_off)
        if complete and not resume:
            raise InputError(
                f"{output} holds a data set already: choose another --output, replace it with --overwrite, "
                "or bring it up to date with --resume"
            )
        if not (broken_off or complete):
            names += [f"{folder}/…" for folder in (TEMPORARY, STATES) if storage.list_folder(storage.join(output, folder))]
            if names:
                raise InputError(f"{output} is not empty ({names[0]}): choose another --output, or write there with --overwrite")
    return Claim.stake(output)


def clear_output(plan: ShardPlan, options: RunOptions, claim: Claim, categories: list[Category]) -> ShardPlan:
    """Deletes an earlier data set, now that the new annotations are read and their categories make a label map.

    With `--resume`, shards of the plan stay, for `WriteShards` to look at. Gives the plan on, so that no shard is written
    before. Raises `InputError` as `LabelMap.of` does, where a trainer's configuration is wanted and there are no categories,
    and where another job has claimed the output.
    """
    output, labels = options.output, LabelMap.of(categories, options.category_ids == "contiguous")
    if options.trainer_config and not labels.labels:
        raise InputError("--trainer_config: the annotations have no categories, so there is nothing to train")
    shards = {plan.file_name(*key) for key in plan.shard_keys()} if options.resume else set()
    kept = shards | {storage.name_of(state_name(shard)) for shard in shards}
    found = {file.path: storage.name_of(file.path) for file in storage.list_folder(output)}
    states = {file.path: storage.name_of(file.path) for file in storage.list_folder(storage.join(output, STATES))}
    ours = {path: name for path, name in found.items() if any(fnmatch.fnmatchcase(name, pattern) for pattern in OURS)}
    ours |= {path: name for path, name in states.items() if fnmatch.fnmatchcase(name, storage.name_of(state_name(SHARDS)))}
    claim.take_away([path for path, name in ours.items() if name == SUCCESS])  # first, so that nothing looks complete
    claim.take_away([path for path, name in ours.items() if name != SUCCESS and name not in kept])
    storage.make_folder(storage.join(output, STATES))
    return plan


# ------------------------------------------------------------------------------------------------------- contents


def label_map_pbtxt(labels: LabelMap) -> bytes:
    """The label map as the Object Detection API reads it. `json.dumps` quotes as the protobuf text format does."""
    items = (f"item {{\n  id: {label}\n  name: {json.dumps(name, ensure_ascii=False)}\n}}\n" for label, name in labels.items())
    return "".join(items).encode()


def label_map_csv(labels: LabelMap) -> bytes:
    """The label map as the Model Garden's label-map decoder reads it."""

    def quoted(name: str) -> str:  # Python's csv would leave a carriage return bare
        return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\r\n') else name

    return "".join(f"{label},{quoted(name)}\n" for label, name in labels.items()).encode()


class Ledger(NamedTuple):
    """What went in and where it went, for images or for annotations."""

    read: int
    written: int
    rejected: int
    dropped: int

    def balances(self) -> bool:
        """Whether everything is accounted for."""
        return self.read == self.written + self.rejected + self.dropped


def ledger(kind: str, read: int, written: int, reasons: Counter[tuple[str, str]]) -> Ledger:
    """The ledger of one kind; `reasons` counts (kind, code)."""
    by_option = {code: count for (of, code), count in reasons.items() if of == kind and ReasonCode[code].by_option}
    all_reasons = sum(count for (of, _), count in reasons.items() if of == kind)
    dropped = sum(by_option.values())
    return Ledger(read, written, all_reasons - dropped, dropped)


def make_manifest(
    options: RunOptions, labels: LabelMap, census: Census, summaries: list[ShardSummary], reasons: Counter[tuple[str, str]]
) -> dict[str, Any]:
    """`manifest.json`. Raises `AssertionError` where the ledger does not balance: that is a bug of ours."""
    images = ledger("image", census.images, sum(shard.records for shard in summaries), reasons)
    annotations = ledger("annotation", census.annotations, sum(shard.instances for shard in summaries), reasons)
    if not (images.balances() and annotations.balances()):
        raise AssertionError(f"the ledger does not balance: {images=}, {annotations=}; nothing was published")
    return {
        "maskbeam": __version__,
        "options": options.for_manifest(),
        "categories": len(labels.labels),
        "images": images._asdict(),
        "annotations": annotations._asdict(),
        "reasons": {
            kind: {code: count for (of, code), count in sorted(reasons.items()) if of == kind} for kind in ("image", "annotation")
        },
        "shards": [
            {
                "split": shard.split,
                "file": shard.file_name,
                "records": shard.records,
                "instances": shard.instances,
                "bytes": shard.bytes,
                "crc32c": f"{shard.crc32c:08x}",
                "fingerprint": shard.fingerprint,
            }
            for shard in summaries
        ],
    }


def as_json(value: object) -> bytes:
    """JSON for people and machines, the same bytes for the same value."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def contents(options: RunOptions, labels: LabelMap, manifest: dict[str, Any], statistics: DatasetStatistics) -> dict[str, bytes]:
    """The small files that lie beside the shards and the rejects, by name."""
    names = dict(labels.items())
    figures = statistics.as_json(names)
    files = {
        LABEL_MAP: label_map_pbtxt(labels),
        LABEL_MAP_CSV: label_map_csv(labels),
        STATISTICS: as_json(figures),
        STATISTICS_PB: statistics_pb(statistics, names, options.mask_encoding),
        MANIFEST: as_json(manifest),
        TFDS_INFO: as_json(tfds_info(manifest)),
        TFDS_FEATURES: as_json(tfds_features(options.mask_encoding)),
    }
    if options.trainer_config:
        facts = facts_of(options.output, manifest, figures, list(names))
        name = GARDEN_CONFIG if options.trainer_config == MODEL_GARDEN else PIPELINE_CONFIG
        files[name] = make_config(facts, options.trainer_config).encode()
    return files


# -------------------------------------------------------------------------------------------------------- rejects


class RejectPart(msgspec.Struct, frozen=True):
    """A sorted part of the rejects, in a temporary file, and how many it has by (kind, code)."""

    path: str
    counts: dict[str, int]


_reject = msgspec.msgpack.Decoder(Reject)
_reject_line = msgspec.json.Decoder(Reject)


def _reject_order(reject: Reject) -> tuple[bool, int, bool, bool, int, str, str]:
    return (
        reject.image_id is not None,
        reject.image_id or 0,
        reject.kind == "annotation",
        reject.annotation_id is not None,
        reject.annotation_id or 0,
        reject.reason,
        reject.message,
    )


def bucket_reject(reject: Reject) -> tuple[int, bytes]:
    """A reject by a hash of its image; here it is counted."""
    counters.rejects(reject.kind, reject.reason).inc()
    return stable_hash(str(reject.image_id), "reject") % REJECT_BUCKETS, pack(reject)


def write_reject_part(claim: Claim, bucket: int, packed: Iterable[bytes]) -> RejectPart:
    """Writes a bucket of rejects, sorted, as JSON lines."""
    rejects = sorted(map(_reject.decode, packed), key=_reject_order)
    path = storage.join(claim.folder, f"rejects-{bucket:02d}.jsonl")
    storage.write_bytes(path, b"".join(msgspec.json.encode(reject) + b"\n" for reject in rejects))
    return RejectPart(path, Counter(f"{reject.kind} {reject.reason}" for reject in rejects))


def _read_lines(path: str) -> Iterator[Reject]:
    with storage.open_read(path) as file:
        for line in file:
            yield _reject_line.decode(line)


def iter_rejects(output: str) -> Iterator[Reject]:
    """The rejects of a data set, images before their annotations."""
    return _read_lines(storage.join(output, REJECTS))


def count_rejects(parts: list[RejectPart]) -> Counter[tuple[str, str]]:
    """How many rejects there are, by (kind, code)."""
    reasons: Counter[tuple[str, str]] = Counter()
    for part in parts:
        for name, count in part.counts.items():
            kind, code = name.split()
            reasons[kind, code] += count
    return reasons


def write_rejects(claim: Claim, parts: list[RejectPart]) -> None:
    """Merges the parts into `rejects.jsonl`, sorted by image and annotation id."""
    temporary, size, crc32c = claim.temporary_name(REJECTS), 0, 0
    with storage.open_write(temporary) as file:
        for reject in heapq.merge(*(_read_lines(part.path) for part in parts), key=_reject_order):
            line = msgspec.json.encode(reject) + b"\n"
            file.write(line)
            size, crc32c = size + len(line), storage.crc32c_of(line, crc32c)
    claim.publish(temporary, REJECTS, size, crc32c)


# ------------------------------------------------------------------------------------------------------- the step


def all_shards(plan: ShardPlan, summaries: list[ShardSummary]) -> list[ShardSummary]:
    """All shards of the plan, in its order; those that no image fell into have no fingerprint."""
    known = {(shard.split, shard.index): shard for shard in summaries}
    return [known.get(key) or ShardSummary(*key, plan.file_name(*key), 0, 0, 0, 0, "") for key in plan.shard_keys()]


def write_empty_shards(claim: Claim, shards: list[ShardSummary]) -> None:
    """Writes the shards that no image fell into, as files without records.

    They have no state; one of an earlier run, when they were not empty, goes.
    """
    names = [shard.file_name for shard in shards if not shard.fingerprint]
    claim.publish_all(dict.fromkeys(names, b""))
    empty = {storage.name_of(state_name(name)) for name in names}
    states = [file.path for file in storage.list_folder(storage.join(claim.output, STATES))]
    claim.take_away([path for path in states if storage.name_of(path) in empty])


def check_shards(output: str, summaries: list[ShardSummary]) -> None:
    """Raises `OSError` unless storage lists every shard with its size, and no other."""
    expected = {shard.file_name: shard.bytes for shard in summaries}
    listed = {storage.name_of(file.path): file.bytes for file in storage.list_folder(output)}
    found = {name: size for name, size in listed.items() if fnmatch.fnmatchcase(name, SHARDS)}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise OSError(f"{output}/{name}: expected {expected.get(name)} bytes, storage lists {found.get(name)}")


def check_rejects(options: RunOptions, manifest: dict[str, Any]) -> None:
    """Raises `InputError`, with the commonest reasons, where more was rejected than the user allows, or there is no image."""
    examples = reject_examples(options.output)
    if not manifest["images"]["read"] and options.format not in OF_COCO:
        raise InputError(f"there is no image in {options.annotations} that --format {options.format} reads")
    for kind in ("image", "annotation"):
        read, written, rejected, _ = manifest[f"{kind}s"].values()
        if rejected <= Fraction(str(options.max_reject_fraction)) * read and (written or not rejected or kind == "annotation"):
            continue
        reasons = Counter({code: count for code, count in manifest["reasons"][kind].items() if not ReasonCode[code].by_option})
        commonest = [f"{count:,} {code}" + _in_brackets(examples.get((kind, code))) for code, count in reasons.most_common(3)]
        allowed = f", more than the {options.max_reject_fraction:.1%} that --max_reject_fraction allows"
        some = f"{rejected:,} of {read:,} {kind}s ({rejected / read:.1%}) can't be written{allowed}"
        raise InputError(
            f"{some if written else f'not one of {read:,} {kind}s can be written'}: {'; '.join(commonest)}; "
            f"{storage.join(options.output, REJECTS)} has them all"
        )


def _in_brackets(text: str | None) -> str:
    return f" ({text})" if text else ""


def reject_examples(output: str) -> dict[tuple[str, str], str]:
    """By kind and reason, one reject of each among the first hundred thousand, in words for people."""
    examples: dict[tuple[str, str], str] = {}
    for reject in itertools.islice(iter_rejects(output), EXAMPLES_AMONG):
        named = f"image {reject.image_id}" + (f" ({reject.file_name})" if reject.file_name else "")
        which = named + (f", annotation {reject.annotation_id}" if reject.kind == "annotation" else "")
        if reject.message != ITS_IMAGE_WAS_REJECTED:
            examples.setdefault((reject.kind, reject.reason), f"e.g. {which}: {reject.message}")
    return examples


def report(options: RunOptions, labels: LabelMap, manifest: dict[str, Any], statistics: DatasetStatistics, began: float) -> bytes:
    """`report.html`. Where it fails, a page that says so: no report is worth a job of hours."""
    try:
        from beam_pipeline.report import make_report  # which nobody else needs, nor matplotlib

        examples = reject_examples(options.output)
        seconds = max(0.0, time.time() - began)
        return make_report(options.output, manifest, dict(labels.items()), statistics, examples, seconds)
    except Exception as error:
        logging.getLogger(__name__).warning("%s: the report could not be made", options.output, exc_info=True)
        return NO_REPORT.format(why=html.escape(f"{type(error).__name__}: {error}")).encode()


def publish(
    options: RunOptions,
    claim: Claim,
    began: float,
    plan: ShardPlan,
    census: Census,
    categories: list[Category],
    summaries: list[ShardSummary],
    statistics: DatasetStatistics,
    parts: list[RejectPart],
) -> None:
    """Writes all that lies beside the shards, checks the balance and the shards, sets the marker, and clears up behind it.

    A runner may call this again after it has succeeded, and whoever has started the job may be gone by then. So the claim ends
    here, and an attempt that comes later knows the data set for its own. The job was made at `began`, in seconds of
    `time.time`.
    """
    output = options.output
    labels = LabelMap.of(categories, options.category_ids == "contiguous")
    shards = all_shards(plan, summaries)
    manifest = make_manifest(options, labels, census, shards, count_rejects(parts))
    if is_published(claim, manifest):
        return
    claim.check()
    if not storage.exists(storage.join(output, SUCCESS)):
        try:
            write_empty_shards(claim, shards)
            write_rejects(claim, sorted(parts, key=lambda part: part.path))
            check_rejects(options, manifest)
            files = contents(options, labels, manifest, statistics)
            claim.publish_all(files | {REPORT: report(options, labels, manifest, statistics, began)})
            check_shards(output, shards)
            claim.publish_bytes(SUCCESS, b"")
        except Exception:
            claim.check()  # another job may have put something else there
            raise
        images = manifest["images"]
        events.log("published", output=output, shards=len(shards), images=images["written"], rejected_images=images["rejected"])
    try:
        claim.release()
    except Exception as error:  # the data set is complete, and a later job clears up
        logging.getLogger(__name__).warning("%s: what is temporary there could not be deleted: %s", output, error)


def is_published(claim: Claim, manifest: dict[str, Any]) -> bool:
    """Whether the data set of this manifest is complete, and nobody is writing there: an attempt has come to its end before."""
    if claimed_by(claim.output) is not None or not storage.exists(storage.join(claim.output, SUCCESS)):
        return False
    return storage.read_bytes(storage.join(claim.output, MANIFEST)) == as_json(manifest)


@dataclass
class Publish(beam.PTransform):  # type: ignore[misc]
    """All that the job, made at `began`, has found out → a complete data set in `options.output`."""

    options: RunOptions
    claim: Claim
    began: float
    plan: beam.PCollection[ShardPlan]
    census: beam.PCollection[Census]
    categories: beam.PCollection[Category]
    summaries: beam.PCollection[ShardSummary]
    statistics: beam.PCollection[DatasetStatistics]
    rejects: beam.PCollection[Reject]

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[None]:
        options, claim, began = self.options, self.claim, self.began
        parts = (
            self.rejects
            | "BucketRejects" >> beam.Map(bucket_reject).with_output_types(tuple[int, bytes])
            | "GroupRejects" >> beam.GroupByKey()
            | "WriteRejects" >> beam.MapTuple(lambda bucket, packed: write_reject_part(claim, bucket, packed))
        )

        def all_of_it(_: None, *collected: Any) -> None:
            publish(options, claim, began, *collected)

        return (
            pipeline
            | beam.Create([None])
            | "Finish"
            >> beam.Map(
                all_of_it,
                beam.pvalue.AsSingleton(self.plan),
                beam.pvalue.AsSingleton(self.census),
                beam.pvalue.AsList(self.categories),
                beam.pvalue.AsList(self.summaries),
                beam.pvalue.AsSingleton(self.statistics),
                beam.pvalue.AsList(parts),
            )
        )
