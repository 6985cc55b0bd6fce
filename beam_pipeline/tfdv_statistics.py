"""`statistics.pb`: the statistics as TensorFlow Data Validation and Facets read them, a `DatasetFeatureStatisticsList`.

A data set for each split, in it the features of the record, each as TFDV itself would describe it: exact but for medians and
histograms, which are within 1 %. Left out is what is not counted: the optional features, and the values of dense masks.
Source: tensorflow_metadata/proto/v0/statistics.proto, and the generators of tensorflow_data_validation/statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from tensorflow_metadata.proto.v0 import statistics_pb2 as pb

from transforms.encode import MaskEncoding
from transforms.sketch import Sketch
from transforms.statistics import DatasetStatistics, SplitStatistics

BUCKETS = 10
TOP_VALUES, RANKED_VALUES = 20, 1000
"""As many as TFDV lists, and as many as it has in a histogram."""


def statistics_pb(statistics: DatasetStatistics, names: Mapping[int, str], encoding: MaskEncoding) -> bytes:
    """The serialized list; `names` gives the category of each label id."""
    splits = sorted(statistics.splits.items())
    found = pb.DatasetFeatureStatisticsList(datasets=[_data_set(name, split, names, encoding) for name, split in splits])
    serialized: bytes = found.SerializeToString(deterministic=True)
    return serialized


def _data_set(name: str, split: SplitStatistics, names: Mapping[int, str], encoding: MaskEncoding) -> pb.DatasetFeatureStatistics:
    features = sorted(_features(split, names, encoding), key=lambda feature: str(feature.path.step[0]))
    return pb.DatasetFeatureStatistics(name=name, num_examples=split.images, features=features)


def _features(split: SplitStatistics, names: Mapping[int, str], encoding: MaskEncoding) -> Iterator[pb.FeatureNameStatistics]:
    one_an_image, one_an_instance = _common(_repeated({1: split.images})), _common(split.instances_an_image)
    labels = {label: category.instances for label, category in split.categories.items()}
    crowds = {0: split.instances - split.crowds, 1: split.crowds}
    weights = {0: split.instances_without_mask, 1: split.instances - split.instances_without_mask}
    texts: dict[str, int] = {}
    for label, count in labels.items():
        texts[names[label]] = texts.get(names[label], 0) + count

    yield _numbers("image/height", pb.FeatureNameStatistics.INT, one_an_image, split.image_height)
    yield _numbers("image/width", pb.FeatureNameStatistics.INT, one_an_image, split.image_width)
    yield _strings("image/format", one_an_image, split.formats)
    yield _bytes("image/encoded", one_an_image, split.image_bytes / max(1, split.images))
    for name in ("image/filename", "image/source_id", "image/key/sha256"):
        yield _bytes(name, one_an_image)
    for side in ("ymin", "xmin", "ymax", "xmax"):
        sketch = getattr(split, f"box_{side}")
        yield _numbers(f"image/object/bbox/{side}", pb.FeatureNameStatistics.FLOAT, one_an_instance, sketch)
    yield _strings("image/object/class/text", one_an_instance, texts)
    yield _numbers("image/object/class/label", pb.FeatureNameStatistics.INT, one_an_instance, _repeated(labels))
    yield _numbers("image/object/is_crowd", pb.FeatureNameStatistics.INT, one_an_instance, _repeated(crowds))
    yield _numbers("image/object/area", pb.FeatureNameStatistics.FLOAT, one_an_instance, split.area)
    yield _numbers("image/object/mask/weight", pb.FeatureNameStatistics.FLOAT, one_an_instance, _repeated(weights))
    if encoding != "dense":
        masks = _bytes("image/object/mask", one_an_instance)
        if split.mask_share.count:
            masks.custom_stats.add(name="mask / image", histogram=_standard(split.mask_share))
        yield masks


def _repeated(counts: Mapping[int, int]) -> Sketch:
    """The sketch of values that are there so many times."""
    made = Sketch()
    for value, times in counts.items():
        made.add(value, times)
    return made


def _common(lengths: Sketch) -> pb.CommonStatistics:
    """What all kinds of feature have; `lengths` counts images by how many values they have of the feature, also by 0."""
    if not lengths.count:
        return pb.CommonStatistics()
    return pb.CommonStatistics(
        num_non_missing=lengths.count,
        min_num_values=int(lengths.low),
        max_num_values=int(lengths.high),
        avg_num_values=lengths.mean,
        tot_num_values=round(lengths.mean * lengths.count),
        num_values_histogram=_quantiles(lengths),
    )


def _named(name: str, kind: int, **stats: object) -> pb.FeatureNameStatistics:
    return pb.FeatureNameStatistics(path={"step": [name]}, type=kind, **stats)


def _numbers(name: str, kind: int, common: pb.CommonStatistics, values: Sketch) -> pb.FeatureNameStatistics:
    found = pb.NumericStatistics(common_stats=common)
    if values.count:
        found.mean, found.std_dev, found.num_zeros = values.mean, values.std_dev, values.zeros
        found.min, found.median, found.max = values.low, values.quantile(0.5), values.high
        found.histograms.extend((_standard(values), _quantiles(values)))
    return _named(name, kind, num_stats=found)


def _strings(name: str, common: pb.CommonStatistics, counts: Mapping[str, int]) -> pb.FeatureNameStatistics:
    found = pb.StringStatistics(common_stats=common, unique=len(counts))
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    for value, count in ranked[:TOP_VALUES]:
        found.top_values.add(value=value, frequency=count)
    for rank, (value, count) in enumerate(ranked[:RANKED_VALUES]):
        found.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=value, sample_count=count)
    length = sum(len(value.encode()) * count for value, count in counts.items())
    found.avg_length = length / max(1, sum(counts.values()))
    return _named(name, pb.FeatureNameStatistics.STRING, string_stats=found)


def _bytes(name: str, common: pb.CommonStatistics, mean_size: float = 0.0) -> pb.FeatureNameStatistics:
    """A feature of which the values are not counted, since nearly each is another."""
    found = pb.BytesStatistics(common_stats=common, avg_num_bytes=mean_size)
    return _named(name, pb.FeatureNameStatistics.BYTES, bytes_stats=found)


def _standard(values: Sketch) -> pb.Histogram:
    """Buckets of one width, from the lowest to the highest value; the last one includes its upper end."""
    found = pb.Histogram(type=pb.Histogram.STANDARD)
    width = (values.high - values.low) / BUCKETS
    counts = [0] * BUCKETS
    for value, count in values.values():
        counts[min(int((value - values.low) / width), BUCKETS - 1) if width else 0] += count
    bounds = [values.low + width * number for number in range(BUCKETS)] + [values.high]
    for (low, high), count in zip(pairwise(bounds), counts, strict=True):
        found.buckets.add(low_value=low, high_value=high, sample_count=count)
    return found


def _quantiles(values: Sketch) -> pb.Histogram:
    """Buckets of as many values each."""
    found = pb.Histogram(type=pb.Histogram.QUANTILES)
    bounds = values.quantiles([number / BUCKETS for number in range(BUCKETS + 1)])
    for low, high in pairwise(bounds):
        found.buckets.add(low_value=low, high_value=high, sample_count=values.count / BUCKETS)
    return found
