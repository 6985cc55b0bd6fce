"""`statistics.pb` beside what TensorFlow Data Validation itself says of the same shards: `make test-tfdv`.

TFDV has an environment of its own (`environments.py`), in which `read_tfdv.py` runs.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Output
from environments import python_of
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

SPLITS = ("train", "val")


class Told(NamedTuple):
    """What TFDV has written."""

    folder: Path
    anomalies: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def told(demo_output: Output, run_demo: Callable[..., Output], tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("tfdv")
    rules = folder / "rules.yaml"
    rules.write_text("rename: {boat: ship}\n")
    other = run_demo(categories=str(rules))
    script = Path(__file__).with_name("read_tfdv.py")
    command = [python_of("tfdv"), "-W", "ignore", script, demo_output.folder, other.folder, folder]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return Told(folder, json.loads((folder / "anomalies.json").read_text()))


def features_of(data_set: Any) -> dict[str, Any]:
    return {".".join(feature.path.step): feature for feature in data_set.features}


@pytest.fixture(params=SPLITS)
def both(request: pytest.FixtureRequest, told: Told, demo_output: Output) -> tuple[Any, Any]:
    """Our statistics of a split, and TFDV's."""
    ours = statistics_pb2.DatasetFeatureStatisticsList.FromString((demo_output.folder / "statistics.pb").read_bytes())
    theirs = statistics_pb2.DatasetFeatureStatisticsList.FromString((told.folder / f"{request.param}.pb").read_bytes())
    (mine,) = (one for one in ours.datasets if one.name == request.param)
    assert [one.name for one in ours.datasets] == list(SPLITS)
    return mine, theirs.datasets[0]


def stats_of(feature: Any) -> Any:
    return getattr(feature, feature.WhichOneof("stats"))


def test_the_features_and_how_many_values_they_have(both: tuple[Any, Any]) -> None:
    mine, theirs = both
    assert mine.num_examples == theirs.num_examples > 0
    ours, known = features_of(mine), features_of(theirs)
    assert ours.keys() == known.keys()
    for name, feature in ours.items():
        one, other = stats_of(feature).common_stats, stats_of(known[name]).common_stats
        for field in ("num_non_missing", "num_missing", "min_num_values", "max_num_values", "tot_num_values"):
            assert getattr(one, field) == getattr(other, field), (name, field)
        assert one.avg_num_values == pytest.approx(other.avg_num_values), name
        assert sum(bucket.sample_count for bucket in one.num_values_histogram.buckets) == pytest.approx(mine.num_examples)
        assert len(one.num_values_histogram.buckets) == len(other.num_values_histogram.buckets)


def test_numbers(both: tuple[Any, Any]) -> None:
    mine, theirs = map(features_of, both)
    numbers = [name for name, feature in theirs.items() if feature.HasField("num_stats")]
    assert len(numbers) == 10
    for name in numbers:
        assert mine[name].type == theirs[name].type
        one, other = mine[name].num_stats, theirs[name].num_stats
        for field in ("min", "max", "num_zeros"):
            assert getattr(one, field) == getattr(other, field), (name, field)
        assert one.mean == pytest.approx(other.mean, rel=1e-6, abs=1e-6), name  # ours is of whole millionths
        assert one.std_dev == pytest.approx(other.std_dev, rel=1e-5, abs=1e-6), name
        assert one.median == pytest.approx(other.median, rel=0.01), name
        assert [histogram.type for histogram in one.histograms] == [histogram.type for histogram in other.histograms]
        if name.startswith("image/object/bbox") or name == "image/object/area":
            check_buckets(name, one.histograms[0], other.histograms[0], one.common_stats.tot_num_values)


def check_buckets(name: str, one: Any, other: Any, count: int) -> None:
    """Both have equal widths. Theirs spreads values over buckets, and ours moves them by up to 1 %.

    So whole numbers on a bound may be in one or the other.
    """
    assert len(one.buckets) == len(other.buckets)
    sums = [0.0, 0.0]
    for mine, theirs in zip(one.buckets, other.buckets, strict=True):
        assert (mine.low_value, mine.high_value) == pytest.approx((theirs.low_value, theirs.high_value)), name
        sums = [sums[0] + mine.sample_count, sums[1] + theirs.sample_count]
        assert sums[0] == pytest.approx(sums[1], abs=0.06 * count + 1), name
    assert sums == pytest.approx([count, count])


def test_strings(both: tuple[Any, Any]) -> None:
    mine, theirs = map(features_of, both)
    for name in ("image/format", "image/object/class/text"):
        assert mine[name].type == theirs[name].type
        one, other = mine[name].string_stats, theirs[name].string_stats
        assert one.unique == other.unique > 1
        assert one.avg_length == pytest.approx(other.avg_length)
        assert {top.value: top.frequency for top in one.top_values} == {top.value: top.frequency for top in other.top_values}
        assert [top.frequency for top in one.top_values] == [top.frequency for top in other.top_values]
        assert sorted((one.label, one.sample_count) for one in one.rank_histogram.buckets) == sorted(
            (one.label, one.sample_count) for one in other.rank_histogram.buckets
        )


def test_bytes(both: tuple[Any, Any]) -> None:
    mine, theirs = map(features_of, both)
    assert mine["image/encoded"].bytes_stats.avg_num_bytes == pytest.approx(theirs["image/encoded"].string_stats.avg_length)
    masks = mine["image/object/mask"]
    assert masks.bytes_stats.common_stats.tot_num_values == theirs["image/object/mask"].string_stats.common_stats.tot_num_values
    assert [one.name for one in masks.custom_stats] == ["mask / image"]


@pytest.mark.parametrize("split", SPLITS)
def test_the_schema_that_is_inferred(told: Told, split: str) -> None:
    texts = [(told.folder / f"{split}.{whose}.schema").read_text() for whose in ("ours", "theirs")]
    ours, theirs = (text_format.Parse(text, schema_pb2.Schema()) for text in texts)
    known = {feature.name: feature for feature in theirs.feature}
    assert {feature.name for feature in ours.feature} == known.keys()
    for feature in ours.feature:
        for field in ("type", "presence", "shape", "value_count"):
            assert getattr(feature, field) == getattr(known[feature.name], field), (feature.name, field)
    domains = {domain.name: set(domain.value) for domain in ours.string_domain}
    assert domains.keys() == {"image/format", "image/object/class/text"}
    assert domains.items() <= {domain.name: set(domain.value) for domain in theirs.string_domain}.items()


def test_validation(told: Told) -> None:
    assert told.anomalies == {
        **{f"{whose} {split}": {} for whose in ("ours", "theirs") for split in SPLITS},
        "other": {"image/object/class/text": "Unexpected string values"},
    }


@pytest.mark.parametrize("split", SPLITS)
def test_facets_gets_both(told: Told, split: str) -> None:
    html = (told.folder / f"{split}.html").read_text()
    (encoded,) = re.findall('proto-input="(.*?)"', html)
    shown = statistics_pb2.DatasetFeatureStatisticsList.FromString(base64.b64decode(encoded))
    assert [len(data_set.features) for data_set in shown.datasets] == [17, 17]
