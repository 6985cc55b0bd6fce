"""Records: the wire format byte for byte, every feature as TensorFlow parses it, and the label map."""

from __future__ import annotations

import hashlib
import io
import tracemalloc

import numpy as np
import pytest
from drawings import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sources import rasterize_image

from transforms import encode, run_lengths
from transforms.examples import LabelMap, build_record, encode_example
from transforms.images import CheckedImage
from transforms.records import AnnotatedImage, Category, InputError, Instance, Polygons, Problem
from transforms.shards import RECORDS_VERSION

ENCODINGS = pytest.mark.parametrize("encoding", ["png", "png1", "dense"])
NO_LIMIT = 2**31
LABELS = LabelMap.of([Category(3, "Katze 🐈"), Category(44, "naïve dog"), Category(1, "bus")], contiguous=False)
BOX = (0.0, 0.0, 1.0, 1.0)


def checked_image(height, width):
    """A PNG of noise, as `check_image` gives it."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)).save(file, "PNG")
    data = file.getvalue()
    return CheckedImage(data, "png", height, width, hashlib.sha256(data).hexdigest(), ())


def instance(shape=None, box=BOX, **fields):
    """With a mask, given as a picture or run lengths, or without."""
    shape = run_lengths.from_mask(draw(shape)) if isinstance(shape, str) else shape
    return Instance(**{"annotation_id": 7, "category_id": 3, "area": None, "is_crowd": False} | fields, shape=shape, box=box)


def image_with(*instances, **fields):
    return AnnotatedImage(**{"image_id": 12, "file_name": "a.png", "height": 4, "width": 5} | fields, instances=instances)


def record_of(image, checked=None, encoding="png", labels=LABELS, max_bytes=NO_LIMIT):
    checked = checked or checked_image(image.height, image.width)
    (masks,) = encode.encode_masks([(image.instances, checked.height, checked.width)], encoding)
    return build_record(image, checked, masks, labels, max_bytes)


def features_of(tf, record):
    """Each feature's kind of list and its values, as the protobuf library reads them."""
    features = tf.train.Example.FromString(record).features.feature
    kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    return {name: (kind, list(getattr(features[name], kind).value)) for name, kind in kinds.items()}


def parsed(tf, record, encoding="png"):
    """The record as a trainer parses it, lists of any length as vectors."""
    one = {"bytes": tf.io.FixedLenFeature([], tf.string), "int64": tf.io.FixedLenFeature([], tf.int64)}
    many = {
        "bytes": tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True),
        "int64": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
        "float": tf.io.FixedLenSequenceFeature([], tf.float32, allow_missing=True),
    }
    spec = {name: one[kind] for name, kind in SCALARS.items()} | {name: many[kind] for name, kind in LISTS.items()}
    spec[MASK] = many["float" if encoding == "dense" else "bytes"]
    return {name: value.numpy() for name, value in tf.io.parse_single_example(record, spec).items()}


MASK = "image/object/mask"
SCALARS = {
    "image/height": "int64",
    "image/width": "int64",
    "image/filename": "bytes",
    "image/source_id": "bytes",
    "image/key/sha256": "bytes",
    "image/encoded": "bytes",
    "image/format": "bytes",
}
LISTS = {
    "image/object/bbox/ymin": "float",
    "image/object/bbox/xmin": "float",
    "image/object/bbox/ymax": "float",
    "image/object/bbox/xmax": "float",
    "image/object/class/text": "bytes",
    "image/object/class/label": "int64",
    "image/object/is_crowd": "int64",
    "image/object/area": "float",
    "image/object/mask/weight": "float",
}

# ------------------------------------------------------------------------------------------------------ wire format

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(width=32, allow_nan=False)
FEATURE = (
    st.binary(max_size=300)
    | st.lists(st.binary(max_size=200), max_size=5)
    | st.lists(FLOATS, max_size=80).map(lambda values: np.array(values, np.float32))
    | st.lists(st.integers(0, 130) | INT64, max_size=40).map(lambda values: np.array(values, np.int64))
)


def example_of(tf, features):
    """The same features in TensorFlow's own message."""
    example = tf.train.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes | list):
            feature.bytes_list.SetInParent()
            feature.bytes_list.value.extend([value] if isinstance(value, bytes) else value)
        elif value.dtype == np.float32:
            feature.float_list.SetInParent()
            feature.float_list.value.extend(value.tolist())
        else:
            feature.int64_list.SetInParent()
            feature.int64_list.value.extend(value.tolist())
    return example


def assert_written_as_protobuf_writes(tf, record, example):
    """Byte for byte; protobuf promises no order of a map's entries, so each is written alone, in the order of names."""
    assert tf.train.Example.FromString(record) == example
    features = example.features.feature
    entries = [tf.train.Features(feature={name: features[name]}).SerializeToString() for name in sorted(features)]
    assert record.endswith(b"".join(entries))
    assert len(record) == example.ByteSize()


@settings(max_examples=200, deadline=None)
@given(features=st.dictionaries(st.text("image/object_bé🐈", min_size=1, max_size=150), FEATURE, min_size=1, max_size=8))
def test_any_features_are_written_as_protobuf_writes_them(tf, features):
    assert_written_as_protobuf_writes(tf, encode_example(features), example_of(tf, features))


@pytest.mark.parametrize(
    ("value", "kind"),
    [([], "bytes_list"), (np.zeros(0, np.float32), "float_list"), (np.zeros(0, np.int64), "int64_list")],
)
def test_an_empty_list_keeps_its_kind(tf, value, kind):
    example = tf.train.Example.FromString(encode_example({"a": value}))
    assert example.features.feature["a"].WhichOneof("kind") == kind


def test_a_column_of_an_array_is_written_value_by_value(tf):
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    record = encode_example({"ymin": boxes[:, 0], "xmax": boxes[:, 3], "back": boxes[0, ::-1]})
    assert features_of(tf, record) == {
        "ymin": ("float_list", [0, 4, 8]),
        "xmax": ("float_list", [3, 7, 11]),
        "back": ("float_list", [3, 2, 1, 0]),
    }


def test_the_order_in_which_features_are_given_does_not_matter():
    features = {"b": b"1", "a": np.array([1, -1]), "a/c": np.array([0.5], np.float32), "B": [b"", b"2"]}
    assert encode_example(features) == encode_example(dict(reversed(features.items())))


@pytest.mark.parametrize("size", [127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_lengths_around_a_further_byte_are_written_right(tf, size):
    features = {"a": bytes(size), "b": np.zeros(size // 4, np.float32), "c": np.full(3, size)}
    assert_written_as_protobuf_writes(tf, encode_example(features), example_of(tf, features))


# ----------------------------------------------------------------------------------------------------------- record

PICTURES = ("..... .###. .#.#. ....#", "##### ..... ..... #....")


@ENCODINGS
def test_every_feature_is_as_the_trainers_expect_it(tf, encoding):
    image = image_with(
        instance(PICTURES[0], (1.0, 1.0, 4.0, 5.0), annotation_id=1, category_id=44, area=6.25),
        instance(PICTURES[1], (0.0, 0.0, 4.0, 5.0), annotation_id=2, category_id=3, is_crowd=True),
        instance(None, (0.5, 1.0, 2.5, 4.5), annotation_id=3, category_id=1),
        file_name="Ordner/ä b.png",
    )
    checked = checked_image(4, 5)
    record = record_of(image, checked, encoding)
    found = features_of(tf, record)
    expected = {
        "image/height": ("int64_list", [4]),
        "image/width": ("int64_list", [5]),
        "image/filename": ("bytes_list", ["Ordner/ä b.png".encode()]),
        "image/source_id": ("bytes_list", [b"12"]),
        "image/key/sha256": ("bytes_list", [hashlib.sha256(checked.data).hexdigest().encode()]),
        "image/encoded": ("bytes_list", [checked.data]),
        "image/format": ("bytes_list", [b"png"]),
        "image/object/bbox/ymin": ("float_list", [0.25, 0.0, 0.125]),
        "image/object/bbox/xmin": ("float_list", [np.float32(0.2), 0.0, np.float32(0.2)]),
        "image/object/bbox/ymax": ("float_list", [1.0, 1.0, 0.625]),
        "image/object/bbox/xmax": ("float_list", [1.0, 1.0, np.float32(0.9)]),
        "image/object/class/text": ("bytes_list", [b"na\xc3\xafve dog", b"Katze \xf0\x9f\x90\x88", b"bus"]),
        "image/object/class/label": ("int64_list", [44, 3, 1]),
        "image/object/is_crowd": ("int64_list", [0, 1, 0]),
        "image/object/area": ("float_list", [6.25, 6.0, 7.0]),
        "image/object/mask/weight": ("float_list", [1.0, 1.0, 0.0]),
    }
    masks = np.stack([draw(PICTURES[0]), draw(PICTURES[1]), np.zeros((4, 5), np.uint8)])
    kind, values = found.pop(MASK)
    assert found == expected
    if encoding == "dense":
        assert (kind, values) == ("float_list", masks.ravel().tolist())
    else:
        assert kind == "bytes_list"
        decoded = [tf.io.decode_png(mask, channels=1).numpy()[:, :, 0] for mask in values]
        np.testing.assert_array_equal(decoded, masks)


@ENCODINGS
def test_tensorflow_parses_a_record_with_the_right_types_and_lengths(tf, encoding):
    image = image_with(*(instance(picture, annotation_id=number) for number, picture in enumerate(PICTURES)))
    found = parsed(tf, record_of(image, encoding=encoding), encoding)
    assert {name: found[name].shape for name in LISTS} == dict.fromkeys(LISTS, (2,))
    assert found[MASK].shape == ((2 * 4 * 5,) if encoding == "dense" else (2,))
    assert found[MASK].dtype == (np.float32 if encoding == "dense" else object)
    assert {name: found[name].dtype for name, kind in LISTS.items() if kind == "float"} == {
        name: np.float32 for name, kind in LISTS.items() if kind == "float"
    }
    decoded = tf.io.decode_image(found["image/encoded"], channels=3).numpy()
    assert decoded.shape == (found["image/height"], found["image/width"], 3)


@ENCODINGS
def test_without_instances_all_lists_are_there_and_empty(tf, encoding):
    record = record_of(image_with(), encoding=encoding)
    found = features_of(tf, record)
    mask_kind = {MASK: "float" if encoding == "dense" else "bytes"}
    assert {name: found[name] for name in (LISTS | mask_kind)} == {
        name: (f"{kind}_list", []) for name, kind in (LISTS | mask_kind).items()
    }
    assert {name: len(found[name][1]) for name in SCALARS} == dict.fromkeys(SCALARS, 1)
    assert parsed(tf, record, encoding)[MASK].shape == (0,)


@ENCODINGS
def test_a_record_has_the_bytes_that_protobuf_gives_the_same_message(tf, encoding):
    image = image_with(instance(PICTURES[0]), instance(None), instance(PICTURES[1], area=2.5))
    record = record_of(image, encoding=encoding)
    assert_written_as_protobuf_writes(tf, record, tf.train.Example.FromString(record))


def test_dense_masks_are_ordered_count_height_width(tf):
    random = np.random.default_rng(5)
    masks = (random.random((3, 7, 11)) < 0.5).astype(np.uint8)
    image = image_with(*(instance(run_lengths.from_mask(mask)) for mask in masks), height=7, width=11)
    values = np.array(features_of(tf, record_of(image, encoding="dense"))[MASK][1])
    np.testing.assert_array_equal(values.reshape(3, 7, 11), masks)


@pytest.mark.parametrize("image_id", [0, 1, 16_777_217, 2**63 - 1, -5])
def test_the_source_id_is_a_decimal_number(tf, image_id):
    found = parsed(tf, record_of(image_with(image_id=image_id)))
    assert int(tf.strings.to_number(found["image/source_id"], tf.int64)) == image_id
    assert found["image/source_id"] == str(image_id).encode()


def test_format_and_hash_are_those_of_the_checked_image_not_of_the_name(tf):
    checked = checked_image(4, 5)._replace(format="jpeg", sha256="ab" * 32)
    found = parsed(tf, record_of(image_with(file_name="a.tiff"), checked))
    assert (found["image/format"], found["image/key/sha256"]) == (b"jpeg", b"ab" * 32)
    assert found["image/filename"] == b"a.tiff"


def test_a_contiguous_label_map_changes_the_labels_only(tf):
    labels = LabelMap.of([Category(3, "cat"), Category(44, "dog"), Category(1, "bus")], contiguous=True)
    image = image_with(instance(PICTURES[0], category_id=44), instance(PICTURES[1], category_id=1))
    found = parsed(tf, record_of(image, labels=labels))
    assert found["image/object/class/label"].tolist() == [3, 1]
    assert found["image/object/class/text"].tolist() == [b"dog", b"bus"]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.data())
def test_boxes_are_inside_the_unit_square_and_min_is_not_over_max(tf, height, width, data):
    def interval(size):
        one, other = data.draw(st.floats(0, size)), data.draw(st.floats(0, size))
        return min(one, other), max(one, other)

    (ymin, ymax), (xmin, xmax) = interval(height), interval(width)
    image = image_with(instance(None, (ymin, xmin, ymax, xmax)), height=height, width=width)
    found = parsed(tf, record_of(image))
    box = {name: found[f"image/object/bbox/{name}"][0] for name in ("ymin", "xmin", "ymax", "xmax")}
    assert 0 <= box["ymin"] <= box["ymax"] <= 1
    assert 0 <= box["xmin"] <= box["xmax"] <= 1
    assert box == {
        "ymin": np.float32(ymin / height),
        "xmin": np.float32(xmin / width),
        "ymax": np.float32(ymax / height),
        "xmax": np.float32(xmax / width),
    }


AREAS = {
    "the annotation's own": (instance(PICTURES[0], area=123.5), 123.5),
    "the annotation's own, of a crowd": (instance(PICTURES[0], area=7.0, is_crowd=True), 7.0),
    "the annotation's own, though zero": (instance(PICTURES[0], area=0.0), 0.0),
    "the annotation's own, without a mask": (instance(None, area=2.5), 2.5),
    "the mask's": (instance(PICTURES[0], (0.0, 0.0, 4.0, 5.0)), 6.0),
    "the box's, without a mask": (instance(None, (0.5, 1.0, 2.5, 4.5)), 7.0),
}


@pytest.mark.parametrize(("one", "area"), AREAS.values(), ids=AREAS)
def test_the_area_is_the_annotations_the_masks_or_the_boxes(tf, one, area):
    assert parsed(tf, record_of(image_with(one)))["image/object/area"].tolist() == [area]


@ENCODINGS
def test_an_instance_without_a_mask_has_an_empty_one_of_weight_zero(tf, encoding):
    image = image_with(instance(None), instance(PICTURES[0]), instance(None))
    found = parsed(tf, record_of(image, encoding=encoding), encoding)
    assert found["image/object/mask/weight"].tolist() == [0, 1, 0]
    if encoding == "dense":
        masks = found[MASK].reshape(3, 4, 5)
    else:
        masks = np.stack([tf.io.decode_png(mask, channels=1).numpy()[:, :, 0] for mask in found[MASK]])
    np.testing.assert_array_equal(masks, [np.zeros((4, 5)), draw(PICTURES[0]), np.zeros((4, 5))])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_polygons_of_an_image_are_in_its_record_pixel_by_pixel(tf, height, width, count, seed):
    width += width == height  # H ≠ W, or a swap would not show
    rings = np.random.default_rng(seed).uniform(-3, 23, (count, 8)).round(2).tolist()
    given_image = image_with(*(instance(Polygons.pack([ring])) for ring in rings), height=height, width=width)
    image, _ = rasterize_image(given_image)
    masks = np.array([run_lengths.to_mask(one.shape) for one in image.instances]).reshape(-1, height, width)
    checked = checked_image(height, width)
    for encoding in ("png", "png1"):
        files = parsed(tf, record_of(image, checked, encoding))[MASK]
        decoded = [tf.io.decode_png(mask, channels=1).numpy()[:, :, 0] for mask in files]
        np.testing.assert_array_equal(np.array(decoded).reshape(masks.shape), masks)
    dense = parsed(tf, record_of(image, checked, "dense"), "dense")[MASK]
    np.testing.assert_array_equal(dense.reshape(masks.shape), masks)


# ------------------------------------------------------------------------------------------------------------- size


def large_image():
    y, x = np.mgrid[:480, :640]
    masks = [((y - 240) ** 2 + (x - 30 * number) ** 2 < 100**2).astype(np.uint8) for number in range(20)]
    return image_with(*(instance(run_lengths.from_mask(mask)) for mask in masks), height=480, width=640)


def test_a_dense_record_takes_little_more_memory_than_its_bytes():
    image = large_image()
    checked = checked_image(480, 640)
    (masks,) = encode.encode_masks([(image.instances, 480, 640)], "dense")
    tracemalloc.start()
    try:
        record = build_record(image, checked, masks, LABELS, NO_LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(record) > 20 * 480 * 640 * 4
    assert peak < 2.5 * len(record)


def test_a_dense_record_over_the_limit_is_refused_before_its_masks_are_made(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the masks were made")

    monkeypatch.setattr(encode, "dense_masks", refuse)
    found = record_of(large_image(), encoding="dense", max_bytes=20_000_000)
    assert isinstance(found, Problem)
    assert found.code == "RECORD_LIMIT"
    assert "24.6 of them masks" in found.message
    assert "at most 20.0" in found.message
    assert "--mask_encoding png" in found.message


def test_an_impossible_number_of_pixels_is_refused_without_counting_them(monkeypatch):
    monkeypatch.setattr(encode, "dense_masks", None)
    checked = checked_image(4, 5)._replace(height=30_000, width=40_000)
    image = image_with(*[instance(None)] * 100, height=30_000, width=40_000)
    assert record_of(image, checked, "dense").code == "RECORD_LIMIT"


@pytest.mark.parametrize("encoding", ["png", "png1"])
def test_png_masks_and_the_image_count_towards_the_limit(encoding):
    image, checked = large_image(), checked_image(480, 640)
    (masks,) = encode.encode_masks([(image.instances, 480, 640)], encoding)
    size = len(checked.data) + sum(map(len, masks.pngs))
    record = record_of(image, checked, encoding)
    assert size < len(record) < size + 3000
    assert record_of(image, checked, encoding, max_bytes=size + 3000) == record
    found = record_of(image, checked, encoding, max_bytes=len(record) - 1)
    assert found.code == "RECORD_LIMIT"
    assert "--mask_encoding" not in found.message


@pytest.mark.parametrize("encoding", ["png", "png1", "dense"])
@pytest.mark.parametrize("count", [0, 1, 200])
def test_no_record_is_larger_than_the_limit(encoding, count):
    instances = [instance(PICTURES[0], annotation_id=number) for number in range(count)]
    image, checked = image_with(*instances), checked_image(4, 5)
    record = record_of(image, checked, encoding)
    assert record_of(image, checked, encoding, max_bytes=len(record) - 1).code == "RECORD_LIMIT"
    assert record_of(image, checked, encoding, max_bytes=len(record) + 1100 + 64 * count) == record


def test_what_was_not_rasterized_is_refused():
    polygon = Instance(17, 1, (0.0, 0.0, 2.0, 2.0), None, False, Polygons.pack([[0, 0, 4, 0, 4, 4]]))
    with pytest.raises(TypeError, match=r"annotation 17 .* Rasterize"):
        run_lengths.masks_of([([polygon], 4, 5)])


# -------------------------------------------------------------------------------------------------------- label map

CATEGORIES = [Category(90, "zebra"), Category(1, "Mensch ä"), Category(3, "人")]


def test_labels_are_the_ids_or_numbered_in_their_order():
    assert LabelMap.of(CATEGORIES, contiguous=False).labels == {1: (1, "Mensch ä"), 3: (3, "人"), 90: (90, "zebra")}
    assert LabelMap.of(CATEGORIES, contiguous=True).labels == {1: (1, "Mensch ä"), 3: (2, "人"), 90: (3, "zebra")}
    assert LabelMap.of(CATEGORIES, contiguous=False).items() == [(1, "Mensch ä"), (3, "人"), (90, "zebra")]


@pytest.mark.parametrize("contiguous", [False, True])
def test_the_order_and_repetition_of_categories_do_not_matter(contiguous):
    assert LabelMap.of(CATEGORIES[::-1] + CATEGORIES, contiguous) == LabelMap.of(CATEGORIES, contiguous)


@pytest.mark.parametrize("category_id", [0, -1, 2**31])
def test_ids_that_trainers_do_not_know_need_numbering_anew(category_id):
    categories = [Category(category_id, "a"), Category(5, "b")]
    with pytest.raises(InputError, match="--category_ids contiguous"):
        LabelMap.of(categories, contiguous=False)
    labels = LabelMap.of(categories, contiguous=True).labels
    assert sorted(label for label, _ in labels.values()) == [1, 2]
    assert labels[category_id][1] == "a"


@pytest.mark.parametrize("contiguous", [False, True])
def test_an_id_with_two_names_and_a_name_with_two_ids_are_refused(contiguous):
    with pytest.raises(InputError, match="5 stands for 'a' and 'b'"):
        LabelMap.of([Category(5, "b"), Category(5, "a")], contiguous)
    with pytest.raises(InputError, match="5 and 6 are both named 'a'"):
        LabelMap.of([Category(6, "a"), Category(5, "a")], contiguous)


def test_no_categories_make_an_empty_label_map():
    assert LabelMap.of([], contiguous=True).items() == []
    assert LabelMap.of([], contiguous=False).labels == {}


@pytest.mark.parametrize(
    ("encoding", "digest"),
    [
        ("png", "66affaa61d15b44e455deabdbf90a422f9050386c92eeda8957a45dd2779d8a4"),
        ("png1", "432eb65942af6a25dc06cc9ac0c744456777020eb9a0bdc8de367c39a41be0c2"),
        ("dense", "f334c967c3d4a717e2ae3968fac27776c16b0c70cfa62c44773f04c3c20bc8ef"),
    ],
)
def test_records_are_those_of_this_version(encoding, digest):
    """Where this fails on purpose, raise `shards.RECORDS_VERSION` too, or `--resume` would mix old shards with new."""
    pixels = CheckedImage(b"as it lies", "jpeg", 4, 5, hashlib.sha256(b"as it lies").hexdigest(), ())
    image = image_with(instance(".....\n.##..\n.###.\n.....", area=4.5), instance(None, category_id=44, is_crowd=True))
    assert hashlib.sha256(record_of(image, pixels, encoding)).hexdigest() == digest
    assert RECORDS_VERSION == 2
