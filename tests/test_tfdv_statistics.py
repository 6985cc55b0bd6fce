"""`statistics.pb` against the records themselves; `make test-tfdv` has the real TensorFlow Data Validation read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Output
from tensorflow_metadata.proto.v0 import statistics_pb2 as pb

from beam_pipeline.tfdv_statistics import statistics_pb
from transforms.examples import FEATURES, Kind
from transforms.statistics import CategoryStatistics, DatasetStatistics, SplitStatistics

TYPES = {Kind.INT64: {"INT"}, Kind.FLOAT: {"FLOAT"}, Kind.BYTES: {"STRING", "BYTES"}}


def parsed(data: bytes) -> dict[str, Any]:
    return {one.name: one for one in pb.DatasetFeatureStatisticsList.FromString(data).datasets}


def features_of(data_set: Any) -> dict[str, Any]:
    return {feature.path.step[0]: feature for feature in data_set.features}


def values_of(tf: Any, output: Output, split: str) -> dict[str, list[list[Any]]]:
    """The values of each feature, image by image, as TensorFlow reads them."""
    found: dict[str, list[list[Any]]] = {name: [] for name in FEATURES}
    for record in tf.data.TFRecordDataset(sorted(str(path) for path in output.folder.glob(f"{split}-*.tfrecord"))):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        for name in FEATURES:
            found[name].append(list(getattr(features[name], features[name].WhichOneof("kind")).value))
    return found


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_feature_is_described_as_it_is_in_the_records(demo_output: Output, tf: Any, split: str) -> None:
    statistics = parsed((demo_output.folder / "statistics.pb").read_bytes())
    assert list(statistics) == ["train", "val"]
    described, values = features_of(statistics[split]), values_of(tf, demo_output, split)
    assert described.keys() == FEATURES.keys()
    assert list(described) == sorted(described)
    for name, lists in values.items():
        feature = described[name]
        assert pb.FeatureNameStatistics.Type.Name(feature.type) in TYPES[FEATURES[name].kind]
        stats = getattr(feature, feature.WhichOneof("stats"))
        lengths = list(map(len, lists))
        common = stats.common_stats
        assert (common.num_non_missing, common.num_missing) == (len(lists), 0)
        assert (common.min_num_values, common.max_num_values, common.tot_num_values) == (min(lengths), max(lengths), sum(lengths))
        assert common.avg_num_values == pytest.approx(np.mean(lengths))
        flat = [value for one in lists for value in one]
        if feature.HasField("num_stats"):
            check_numbers(stats, np.array(flat, np.float64))
        elif feature.HasField("string_stats"):
            counts = Counter(value.decode() for value in flat)
            assert stats.unique == len(counts)
            assert {top.value: top.frequency for top in stats.top_values} == counts
            assert [top.frequency for top in stats.top_values] == sorted(counts.values(), reverse=True)
            assert stats.avg_length == pytest.approx(np.mean(list(map(len, flat))))
    assert described["image/encoded"].bytes_stats.avg_num_bytes == pytest.approx(
        np.mean([len(one[0]) for one in values["image/encoded"]])
    )


def check_numbers(stats: Any, values: Any) -> None:
    assert (stats.min, stats.max, stats.num_zeros) == (values.min(), values.max(), (values == 0).sum())
    assert stats.mean == pytest.approx(values.mean(), abs=1e-6)
    assert stats.std_dev == pytest.approx(values.std(), rel=1e-5, abs=1e-6)
    assert stats.median == pytest.approx(np.quantile(values, 0.5, method="lower"), rel=0.01)
    standard, quantiles = stats.histograms
    assert (standard.type, quantiles.type) == (pb.Histogram.STANDARD, pb.Histogram.QUANTILES)
    bounds = [standard.buckets[0].low_value, *(bucket.high_value for bucket in standard.buckets)]
    assert bounds == pytest.approx(np.linspace(values.min(), values.max(), 11))
    assert sum(bucket.sample_count for bucket in standard.buckets) == len(values)
    for bucket in standard.buckets if values.min() < values.max() else ():
        inside = (values >= bucket.low_value * 1.01) & (values <= bucket.high_value * 0.99)  # whatever 1 % may do
        near = (values >= bucket.low_value * 0.99) & (values <= bucket.high_value * 1.01)
        assert inside.sum() <= bucket.sample_count <= near.sum()
    tenths = [quantiles.buckets[0].low_value, *(bucket.high_value for bucket in quantiles.buckets)]
    assert tenths == pytest.approx(np.quantile(values, np.arange(11) / 10, method="lower"), rel=0.01)
    assert {bucket.sample_count for bucket in quantiles.buckets} == {len(values) / 10}


def test_dense_masks_are_not_described(run_demo: Callable[..., Output]) -> None:
    output = run_demo(mask_encoding="dense")
    assert features_of(parsed((output.folder / "statistics.pb").read_bytes())["train"]).keys() == FEATURES.keys() - {
        "image/object/mask"
    }


def test_masks_have_their_share_of_the_image(demo_output: Output) -> None:
    described = features_of(parsed((demo_output.folder / "statistics.pb").read_bytes())["train"])
    (share,) = described["image/object/mask"].custom_stats
    assert share.name == "mask / image"
    assert 0 < share.histogram.buckets[0].low_value < share.histogram.buckets[-1].high_value < 1


def class_text(counts: dict[int, int], names: dict[int, str]) -> Any:
    """The string statistics of `image/object/class/text`, from instances by label id."""
    split = SplitStatistics(categories={label: CategoryStatistics(instances=count) for label, count in counts.items()})
    data_set = parsed(statistics_pb(DatasetStatistics({"train": split}), names, "png"))["train"]
    return features_of(data_set)["image/object/class/text"].string_stats


def test_categories_of_one_name_are_one_string_and_its_length_is_in_bytes() -> None:
    text = class_text({3: 1, 1: 2, 9: 3}, {1: "Bär", 3: "Bär", 9: "ox"})
    assert [(top.value, top.frequency) for top in text.top_values] == [("Bär", 3), ("ox", 3)]
    assert text.avg_length == 3.0  # of four bytes and of two
    assert text.unique == 2


def test_many_categories_are_cut_as_data_validation_cuts_them() -> None:
    labels = range(1, 1204)
    text = class_text({label: label for label in labels}, {label: f"class {label}" for label in labels})
    assert text.unique == 1203
    assert [top.value for top in text.top_values] == [f"class {label}" for label in range(1203, 1183, -1)]
    assert [(bucket.low_rank, bucket.high_rank, bucket.label) for bucket in text.rank_histogram.buckets] == [
        (rank, rank, f"class {1203 - rank}") for rank in range(1000)
    ]


def test_a_split_without_instances_and_one_without_images() -> None:
    empty, bare = SplitStatistics(), SplitStatistics(images=2)
    for sketch in (bare.image_height, bare.image_width):
        sketch.add(48, 2)
    bare.instances_an_image.add(0, 2)
    found = parsed(statistics_pb(DatasetStatistics({"val": empty, "train": bare}), {}, "png"))
    assert [one.num_examples for one in found.values()] == [2, 0]
    described = features_of(found["train"])
    assert described["image/object/area"].num_stats.common_stats.num_non_missing == 2
    assert described["image/object/area"].num_stats.common_stats.tot_num_values == 0
    assert not described["image/object/area"].num_stats.histograms
    assert [bucket.sample_count for bucket in described["image/height"].num_stats.histograms[0].buckets] == [2, *[0] * 9]
    assert pb.DatasetFeatureStatisticsList.FromString(statistics_pb(DatasetStatistics(), {}, "png")).datasets == []
