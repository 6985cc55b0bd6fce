"""JSON lines: all that the schema has, and what is wrong with a line or an annotation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as cocomask
from sources import by_file_name, drawn, parse_text, rasterize_image, run_format, source_images
from test_end_to_end import read_back

from beam_pipeline.reference import jsonl_schema
from beam_pipeline.verify import verify
from transforms import run_lengths
from transforms.rasterize import Drops
from transforms.records import Attributes, InputError, RunLengths, pack
from transforms.sources.jsonl import FORMAT
from transforms.sources.lines import BLOCK_BYTES, cut_lines

HEIGHT, WIDTH = 30, 50
RING = [4.0, 3.0, 40.0, 5.0, 22.5, 27.0]
HOLE = [18.0, 8.0, 26.0, 8.0, 22.0, 18.0]


def line(*annotations: Any, **fields: Any) -> str:
    return json.dumps({"file_name": "a/one.png", "height": HEIGHT, "width": WIDTH, "annotations": annotations} | fields)


def of_pycocotools(*rings: list[float]) -> np.ndarray:
    return cocomask.decode(cocomask.merge(cocomask.frPyObjects(list(rings), HEIGHT, WIDTH)))


def one(*annotations: Any) -> Any:
    (source,) = parse_text("jsonl", line(*annotations))
    return drawn(source)


def test_polygons_are_joined_and_holes_cut_out() -> None:
    second = [42.0, 10.0, 49.0, 12.0, 45.0, 20.0]
    found = one({"category": "cat", "polygons": [RING, second], "holes": [HOLE]}, {"category": "cat", "polygons": [RING, HOLE]})
    assert np.array_equal(found.masks[0], of_pycocotools(RING, second) & ~of_pycocotools(HOLE))
    assert 0 < found.masks[0].sum() < of_pycocotools(RING, second).sum()
    assert np.array_equal(found.masks[1], of_pycocotools(RING))


def test_a_hole_that_takes_all_leaves_nothing() -> None:
    assert one({"category": "cat", "polygons": [RING], "holes": [RING]}).rejects == {1: "EMPTY_MASK"}


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths(compressed: bool) -> None:
    mask = of_pycocotools(RING)
    if compressed:
        counts: Any = cocomask.encode(np.asfortranarray(mask))["counts"].decode()
    else:
        flat = mask.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *edges, flat.size]).tolist()
    found = one({"category": "cat", "rle": {"size": [HEIGHT, WIDTH], "counts": counts}})
    assert np.array_equal(found.masks, [mask])


def test_a_box_alone_is_kept_without_a_mask() -> None:
    (instance,) = one({"category": "cat", "bbox": [10, 5, 20, 12]}).instances
    assert instance.shape is None
    assert instance.box == (5, 10, 17, 30)


def test_higher_layers_cover_lower_ones() -> None:
    below, above = {"category": "cat", "polygons": [RING], "area": 7}, {"category": "dog", "polygons": [HOLE], "layer": 1}
    found = one(above, below, below)
    assert np.array_equal(found.masks, [of_pycocotools(HOLE), *[of_pycocotools(RING) & ~of_pycocotools(HOLE)] * 2])
    assert found.instances[1].area is None
    assert one(above | {"polygons": [RING]}, below).rejects == {2: "EMPTY_MASK"}


def test_what_is_left_out_covers_others_all_the_same() -> None:
    below, above = {"category": "cat", "polygons": [RING]}, {"category": "dog", "polygons": [HOLE], "layer": 1, "iscrowd": 1}
    (source,) = parse_text("jsonl", line(below, above))
    kept, rejects = rasterize_image(source.image, drops=Drops(crowds=True))
    assert kept is not None
    assert [(reject.annotation_id, reject.reason) for reject in rejects] == [(2, "DROPPED_CROWD")]
    (instance,) = kept.instances
    assert isinstance(instance.shape, RunLengths)
    assert np.array_equal(run_lengths.to_mask(instance.shape), of_pycocotools(RING) & ~of_pycocotools(HOLE))


def test_what_else_is_said_of_an_object() -> None:
    said = {"difficult": True, "truncated": True, "occluded": True, "group_of": True, "depiction": True, "view": "Frontal"}
    found = one({"category": "cat", "polygons": [RING], "area": 12.5, "iscrowd": 1} | said)
    (instance,) = found.instances
    assert instance.attributes == Attributes(**said)
    assert (instance.area, instance.is_crowd) == (12.5, True)
    assert one({"category": "cat", "polygons": [RING]}).instances[0].attributes is None


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({"polygons": [RING]}, "FIELD_INVALID"),
        ({"category": "", "polygons": [RING]}, "FIELD_INVALID"),
        ({"category": "cat", "polygon": [RING]}, "FIELD_INVALID"),
        ({"category": "cat", "polygons": RING}, "FIELD_INVALID"),
        ({"category": "cat", "polygons": [["4", 3, 2]]}, "FIELD_INVALID"),
        ({"category": "cat", "polygons": [RING], "rle": {"size": [HEIGHT, WIDTH], "counts": "0"}}, "FIELD_INVALID"),
        ({"category": "cat", "polygons": [RING], "iscrowd": 2}, "FIELD_INVALID"),
        ({"category": "cat", "polygons": []}, "POLY_MALFORMED"),
        ({"category": "cat", "polygons": [RING[:5]]}, "POLY_MALFORMED"),
        ({"category": "cat", "polygons": [RING], "holes": [RING[:4]]}, "POLY_MALFORMED"),
        ({"category": "cat", "polygons": [[1e30, *RING[1:]]]}, "COORD_INVALID"),
        ({"category": "cat", "rle": {"size": [WIDTH, HEIGHT], "counts": [10, 5, WIDTH * HEIGHT - 15]}}, "RLE_SIZE_MISMATCH"),
        ({"category": "cat", "rle": {"size": [HEIGHT, WIDTH], "counts": [3, 4]}}, "RLE_MALFORMED"),
        ({"category": "cat", "rle": {"size": [HEIGHT, WIDTH], "counts": "000o"}}, "RLE_MALFORMED"),
        ({"category": "cat", "rle": {"size": [10**6, 10**6], "counts": [10**12]}}, "DIM_LIMIT"),
        ({"category": "cat"}, "BOX_INVALID"),
        ({"category": "cat", "bbox": [10, 5, 0, 12]}, "BOX_INVALID"),
        ({"category": "cat", "bbox": [500, 5, 5, 12]}, "BOX_INVALID"),
        (7, "FIELD_INVALID"),
        (None, "FIELD_INVALID"),
    ],
)
def test_what_is_wrong_with_an_annotation_is_its_own(bad: Any, code: str) -> None:
    good = {"category": "cat", "polygons": [RING]}
    found = one(good, bad, good)
    assert found.rejects == {2: code}
    assert [instance.annotation_id for instance in found.instances] == [1, 3]


@pytest.mark.parametrize("layer", [2**63, 10**30, -(2**63) - 1, 1.5, "1"])
def test_a_layer_is_a_whole_number_that_travels(layer: Any) -> None:
    (source,) = parse_text("jsonl", line({"category": "cat", "polygons": [RING], "layer": layer}))
    assert [(number, why.code) for number, why in source.rejects] == [(1, "FIELD_INVALID")]
    assert pack(source)


def test_the_highest_layer_covers_the_lowest() -> None:
    far = [{"category": "cat", "polygons": [ring], "layer": layer} for ring, layer in ((RING, -(2**63)), (HOLE, 2**63 - 1))]
    (source,) = parse_text("jsonl", line(*far))
    assert pack(source)
    assert np.array_equal(drawn(source).masks, [of_pycocotools(RING) & ~of_pycocotools(HOLE), of_pycocotools(HOLE)])


@pytest.mark.parametrize("area", ["1e300", "3.5e38"])
def test_an_area_that_no_record_holds_is_the_masks(area: str) -> None:
    text = line({"category": "cat", "polygons": [RING], "area": 12345}).replace("12345", area)
    (source,) = parse_text("jsonl", text)
    (instance,) = source.image.instances
    assert instance.area is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{}", "FILE_INVALID"),
        ("[" * 100_000, "FILE_INVALID"),
        (line(height="30"), "FILE_INVALID"),
        (line(width=None), "FILE_INVALID"),
        (line(annotations=3), "FILE_INVALID"),
        (line(weather="fine"), "FILE_INVALID"),
        (line(height=0), "DIM_LIMIT"),
        (line(height=-5), "DIM_LIMIT"),
        (line(height=10**9, width=10**9), "DIM_LIMIT"),
    ],
)
def test_what_is_wrong_with_a_line_is_its_images(text: str, code: str) -> None:
    first, bad, last = parse_text("jsonl", "\n".join((line(), text, line())))
    assert first.problem is None
    assert last.problem is None
    assert bad.problem
    assert bad.problem.code == code


@pytest.mark.parametrize("text", [b"{", b"nonsense", b'{"file_name": "\xff"}'])
def test_a_line_that_is_no_json_ends_the_job(text: bytes) -> None:
    with pytest.raises(InputError, match=r"JSON_INVALID: /data/one\.json: the line that begins with"):
        parse_text("jsonl", line().encode() + b"\n" + text)


def test_lines_are_cut_whole(tmp_path: Path) -> None:
    lines = [json.dumps({"number": number, "text": "x" * (number * 7919 % 5000)}) for number in range(3000)]
    path = tmp_path / "many.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(lines).encode())
    blocks = list(cut_lines(str(path)))
    assert len(blocks) > 3
    assert max(map(len, blocks)) < 2 * BLOCK_BYTES + 6000
    assert [text.strip() for block in blocks for text in block.decode().split("\n") if text.strip()] == lines


def test_an_empty_file_has_no_images(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    assert source_images("jsonl", tmp_path) == []


def test_a_whole_run(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    names = [f"a/{number}.png" for number in range(5)]
    for name in names:
        Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)).save(tmp_path / name)
    cat, dog = (
        {"category": "cat", "polygons": [RING], "difficult": True},
        {"category": "bird", "polygons": [HOLE], "view": "Rear"},
    )
    texts = [line(cat, dog, file_name=names[0]), line(file_name=names[1]), line(dog, file_name=names[2])]
    (tmp_path / "one.jsonl").write_text("\n".join(texts))
    (tmp_path / "two.jsonl").write_text("\n".join([line(dog, {}, file_name=names[3]), "{}", line(dog, file_name=names[2])]))
    manifest = run_format("jsonl", tmp_path, tmp_path, tmp_path / "out", max_reject_fraction=1.0)
    assert manifest["images"] == {"read": 6, "written": 4, "rejected": 2, "dropped": 0}
    assert manifest["annotations"] == {"read": 6, "written": 4, "rejected": 2, "dropped": 0}
    assert manifest["reasons"] == {
        "image": {"DUP_IMAGE": 1, "FILE_INVALID": 1},
        "annotation": {"DUP_IMAGE": 1, "FIELD_INVALID": 1},
    }
    records = by_file_name(read_back(tmp_path / "out"))
    assert sorted(records) == names[:4]
    assert [label.tolist() for label in (records[name]["image/object/class/label"] for name in names[:3])] == [[2, 1], [], [1]]
    assert all(0 < int(record["image/source_id"]) < 2**24 for record in records.values())
    assert np.array_equal(records[names[0]]["masks"], [of_pycocotools(RING), of_pycocotools(HOLE)])
    rejects = [json.loads(text) for text in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert {(one["kind"], one["reason"], one["file_name"]) for one in rejects} == {
        ("image", "FILE_INVALID", "two.jsonl"),
        ("image", "DUP_IMAGE", names[2]),
        ("annotation", "DUP_IMAGE", names[2]),
        ("annotation", "FIELD_INVALID", names[3]),
    }


def test_the_schema_takes_what_is_read_and_nothing_else() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(jsonl_schema()))
    rle = {"size": [HEIGHT, WIDTH], "counts": [1, 2]}
    good = line({"category": "cat", "polygons": [RING], "holes": [HOLE], "iscrowd": 1}, {"category": "a", "rle": rle, "area": 3})
    assert list(validator.iter_errors(json.loads(good))) == []
    for bad in (line({"polygons": [RING]}), line(height="3"), line(weather="fine"), line({"category": "a", "iscrowd": 2}), "{}"):
        assert list(validator.iter_errors(json.loads(bad))), bad


def test_it_is_recognised() -> None:
    assert FORMAT.recognise("a.jsonl", line().encode() + b"\n{")
    assert not FORMAT.recognise("a.json", b'{"images": [{"file_name": "a", "height": 1, "width": 2}], "annotations": []}')


def test_attributes_are_in_the_record_where_they_are_said(tmp_path: Path, tf: Any) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "one.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "two.png")
    said = {"difficult": True, "view": "Rear"}
    cat, dog = {"category": "cat", "polygons": [RING]}, {"category": "dog", "polygons": [HOLE]}
    texts = [line(cat, dog | said, file_name="one.png"), line(cat, file_name="two.png")]
    (tmp_path / "all.jsonl").write_text("\n".join(texts))
    run_format("jsonl", tmp_path, tmp_path, tmp_path / "out")
    features = {}
    for serialized in tf.data.TFRecordDataset([str(path) for path in (tmp_path / "out").glob("*.tfrecord")]):
        example = tf.train.Example.FromString(serialized.numpy())
        features[example.features.feature["image/filename"].bytes_list.value[0]] = example.features.feature
    assert features[b"one.png"]["image/object/difficult"].int64_list.value == [0, 1]
    assert features[b"one.png"]["image/object/occluded"].int64_list.value == [0, 0]
    assert features[b"one.png"]["image/object/view"].bytes_list.value == [b"", b"Rear"]
    assert "image/object/difficult" not in features[b"two.png"]
    assert verify(str(tmp_path / "out")) == []
