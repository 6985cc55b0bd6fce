"""Images scaled down or cut into tiles: masks, boxes and pictures stay where they belong, to the bit."""

from __future__ import annotations

import io
import json
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Data, digests
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as cocomask
from sources import by_file_name, rasterize_image, run_format
from test_end_to_end import read_back

from beam_pipeline.verify import verify
from transforms import run_lengths, shards
from transforms.images import ImageFolder
from transforms.records import AnnotatedImage, InputError, Instance, Polygons, Problem, RunLengths, Shape
from transforms.sharding import ShardPlan, Splits, order_of, shard_key
from transforms.shards import RecordOptions, load_images
from transforms.views import MOST_TILES, Tiles, cut_tiles, scale_image, scaled_size, tile_starts

HEIGHT, WIDTH = 60, 90
RING = [5.0, 4.5, 80.25, 10.0, 44.0, 55.75]


def image(*shapes: Shape, **fields: Any) -> AnnotatedImage:
    instances = tuple(Instance(place, 1, None, None, False, shape) for place, shape in enumerate(shapes, start=1))
    values: dict[str, Any] = {"image_id": 7, "file_name": "a/b.png", "height": HEIGHT, "width": WIDTH, "instances": instances}
    return AnnotatedImage(**values | fields)


def drawn(one: AnnotatedImage) -> AnnotatedImage:
    found, rejects = rasterize_image(one)
    assert found is not None
    assert rejects == []
    return found


def masks_of(one: AnnotatedImage) -> list[np.ndarray]:
    return [run_lengths.to_mask(instance.shape) for instance in one.instances if isinstance(instance.shape, RunLengths)]


def of_pycocotools(ring: list[float], height: int, width: int) -> np.ndarray:
    return cocomask.decode(cocomask.merge(cocomask.frPyObjects([ring], height, width)))


# -------------------------------------------------------------------------------------------------------- scaling


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((60, 90), 90, (60, 90)),
        ((60, 90), 45, (30, 45)),
        ((90, 60), 45, (45, 30)),
        ((1, 1000), 10, (1, 10)),
        ((333, 1000), 500, (166, 500)),
        ((50, 50), 500, (50, 50)),
    ],
)
def test_the_longer_side_becomes_the_limit(size: tuple[int, int], max_side: int, expected: tuple[int, int]) -> None:
    assert scaled_size(*size, max_side) == expected


def test_outlines_are_drawn_at_the_size_that_they_are_scaled_to() -> None:
    scaled, rejects = scale_image(image(Polygons.pack([RING])), 35)
    assert rejects == []
    assert (scaled.height, scaled.width) == (23, 35)
    ring = [value * (23 / HEIGHT if place % 2 else 35 / WIDTH) for place, value in enumerate(RING)]
    assert np.array_equal(masks_of(drawn(scaled)), [of_pycocotools(ring, 23, 35)])


def test_painted_masks_have_the_nearest_pixel() -> None:
    whole = of_pycocotools(RING, HEIGHT, WIDTH)
    scaled, _ = scale_image(image(run_lengths.from_mask(whole)), 30)
    assert np.array_equal(masks_of(drawn(scaled)), [whole[1::3, 1::3]])


def test_painted_objects_that_vanish_are_dropped() -> None:
    dot = np.zeros((HEIGHT, WIDTH), np.uint8)
    dot[0, 0] = 1
    scaled, (reject,) = scale_image(image(run_lengths.from_mask(dot)), 30)
    assert scaled.instances == ()
    assert reject.reason == "DROPPED_SMALL"


def test_boxes_and_areas_follow() -> None:
    instance = Instance(1, 1, (6.0, 9.0, 30.0, 45.0), 300.0, False, None)
    scaled, _ = scale_image(image(instances=(instance,)), 30)
    assert scaled.instances[0].box == pytest.approx((2, 3, 10, 15))
    assert scaled.instances[0].area == pytest.approx(300 / 9)


def test_an_image_that_is_small_enough_stays() -> None:
    one = image(Polygons.pack([RING]))
    assert scale_image(one, 90) == (one, [])


def test_holes_stay_holes() -> None:
    hole = [40.0, 15.0, 50.0, 15.0, 45.0, 30.0]
    scaled, _ = scale_image(image(Polygons.pack([RING, hole], 1)), 45)
    half = [[value / 2 for value in ring] for ring in (RING, hole)]
    expected = of_pycocotools(half[0], 30, 45) & ~of_pycocotools(half[1], 30, 45)
    assert np.array_equal(masks_of(drawn(scaled)), [expected])


def test_what_is_broken_is_told_of_the_size_that_it_was_annotated_at() -> None:
    good, short = run_lengths.from_mask(np.ones((HEIGHT, WIDTH), np.uint8)), RunLengths(HEIGHT, WIDTH, b"123")
    other = run_lengths.from_mask(np.ones((WIDTH, HEIGHT), np.uint8))
    scaled, rejects = scale_image(image(short, good, other, Polygons.pack([[1, 2, 3, 4, 5]])), 30)
    assert [(one.annotation_id, one.reason) for one in rejects] == [(1, "RLE_MALFORMED"), (3, "RLE_SIZE_MISMATCH")]
    assert "60 × 90" in rejects[1].message
    assert [one.reason for one in rasterize_image(scaled)[1]] == ["POLY_MALFORMED"]


# ---------------------------------------------------------------------------------------------------------- tiles


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 300), st.integers(2, 80), st.data())
def test_tiles_cover_a_side_and_share_the_overlap(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    starts = tile_starts(length, tile, overlap)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] == max(0, length - tile)
    assert all(after - before <= tile - overlap for before, after in pairwise(starts))
    assert all(after - before == tile - overlap for before, after in pairwise(starts[:-1]))


def test_masks_are_cut_at_the_borders() -> None:
    one = drawn(image(Polygons.pack([RING]), Polygons.pack([[80, 50, 89, 50, 89, 59, 80, 59]])))
    tiles, rejects = cut_tiles(one, Tiles(25, 40, 10, 0.0))
    assert rejects == []
    wholes, found = masks_of(one), 0
    for tile in tiles:
        assert tile.view
        assert (tile.height, tile.width) == (25, 40)
        part = np.s_[tile.view.top : tile.view.top + 25, tile.view.left : tile.view.left + 40]
        expected = {place: whole[part] for place, whole in enumerate(wholes, start=1) if whole[part].any()}
        assert [instance.annotation_id for instance in tile.instances] == list(expected)
        assert np.array_equal(np.reshape(masks_of(tile), (-1, 25, 40)), np.reshape(list(expected.values()), (-1, 25, 40)))
        for instance, mask in zip(tile.instances, masks_of(tile), strict=True):
            rows, columns = np.nonzero(mask)
            assert instance.box is not None
            assert instance.box[0] <= rows.min()
            assert instance.box[3] >= columns.max() + 1
        found += len(expected)
    assert found > len(tiles) / 2
    assert {(tile.view.left, tile.view.top) for tile in tiles if tile.view} == {
        (left, top) for left in (0, 30, 50) for top in (0, 15, 30, 35)
    }


def test_ids_and_names_tell_where_a_tile_came_from() -> None:
    tiles, _ = cut_tiles(drawn(image(Polygons.pack([RING]))), Tiles(60, 50, 10))
    assert [(tile.image_id, tile.file_name, tile.source_id) for tile in tiles] == [
        (7 * MOST_TILES + 1, "a/b.png@0,0", 7),
        (7 * MOST_TILES + 2, "a/b.png@40,0", 7),
    ]


def test_tiles_of_an_image_stay_in_its_split_and_shard_one_after_the_other() -> None:
    plan, splits = ShardPlan((("train", 5), ("val", 5))), Splits((("train", 0.5), ("val", 0.5)))
    every = []
    for image_id in range(1, 30):
        parent = drawn(image(Polygons.pack([RING]), image_id=image_id))
        tiles, _ = cut_tiles(parent, Tiles(30, 30))
        assert {shard_key(tile, plan, splits) for tile in tiles} == {shard_key(parent, plan, splits)}
        every += tiles
    in_order = [tile.source_id for tile in sorted(every, key=order_of)]
    assert len(in_order) == 29 * len(tiles)
    assert sum(before != after for before, after in pairwise(in_order)) == 28


def test_tiles_stay_together_by_a_part_of_the_file_name() -> None:
    splits = Splits((("train", 0.5), ("val", 0.5)), r"([^/]+)\.png$")
    for image_id in range(1, 20):
        tiles, _ = cut_tiles(drawn(image(Polygons.pack([RING]), image_id=image_id, file_name=f"{image_id}.png")), Tiles(30, 30))
        assert len({splits.of(tile) for tile in tiles}) == 1


def test_slivers_are_dropped_and_large_objects_are_not() -> None:
    large = np.ones((HEIGHT, WIDTH), np.uint8)
    small = np.zeros_like(large)
    small[10:20, 28:41] = 1  # of its 13 columns, two lie left of 30
    one = drawn(image(run_lengths.from_mask(large), run_lengths.from_mask(small)))
    tiles, rejects = cut_tiles(one, Tiles(30, 30, 0, 0.2))
    assert [[instance.annotation_id for instance in tile.instances] for tile in tiles] == [[1], [1, 2], [1], [1], [1], [1]]
    (reject,) = rejects
    assert (reject.annotation_id, reject.reason, reject.file_name) == (2, "DROPPED_SLIVER", "a/b.png@0,0")
    assert "20 of its 130 pixels" in reject.message
    first, *_ = cut_tiles(one, Tiles(30, 30, 0, 0.15))[0]
    assert [instance.annotation_id for instance in first.instances] == [1, 2]


def test_a_whole_object_keeps_its_box_and_area_and_a_part_does_not() -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:15, 20:40] = 1
    instance = Instance(1, 1, (4.5, 19.5, 15.5, 40.5), 222.0, True, run_lengths.from_mask(mask))
    tiles, _ = cut_tiles(drawn(image(instances=(instance,))), Tiles(60, 50, 20))
    (whole,), (part,) = tiles[0].instances, tiles[1].instances
    assert (whole.box, whole.area, whole.is_crowd) == ((4.5, 19.5, 15.5, 40.5), 222.0, True)
    assert (part.box, part.area, part.is_crowd) == ((5, 0, 15, 10), None, True)


def test_what_is_longer_than_any_tile_is_kept() -> None:
    road = np.zeros((HEIGHT, WIDTH), np.uint8)
    road[30] = 1
    tiles, rejects = cut_tiles(drawn(image(run_lengths.from_mask(road))), Tiles(6, 6, 0, 0.5))
    assert rejects == []
    assert sum(len(tile.instances) for tile in tiles) == WIDTH // 6


def test_boxes_without_masks_are_cut_too() -> None:
    instance = Instance(1, 1, (5.0, 20.0, 15.0, 40.0), None, False, None)
    tiles, rejects = cut_tiles(drawn(image(instances=(instance,))), Tiles(60, 39, 0, 0.1))
    assert [tile.instances[0].box if tile.instances else None for tile in tiles] == [(5, 20, 15, 39), None, None]
    assert [reject.reason for reject in rejects] == ["DROPPED_SLIVER"]


def test_tiles_without_anything_on_them_can_be_dropped() -> None:
    one = drawn(image(Polygons.pack([[80, 50, 89, 50, 89, 59, 80, 59]])))
    tiles, rejects = cut_tiles(one, Tiles(30, 45), keep_empty=False)
    assert [tile.file_name for tile in tiles] == ["a/b.png@45,30"]
    assert [(reject.kind, reject.reason) for reject in rejects] == [("image", "DROPPED_EMPTY_IMAGE")] * 3


def test_too_many_tiles_are_no_tiles() -> None:
    one = drawn(image(Polygons.pack([RING]), height=400, width=600))
    tiles, rejects = cut_tiles(one, Tiles(1, 2, 0))
    assert tiles == []
    assert [(reject.kind, reject.reason) for reject in rejects] == [("image", "DIM_LIMIT"), ("annotation", "DIM_LIMIT")]


def test_a_file_is_read_once_for_all_its_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a/b.png")
    reads = []
    read_bytes = shards.storage.read_bytes
    monkeypatch.setattr(shards.storage, "read_bytes", lambda path, take=lambda size: None: reads.append(path) or read_bytes(path))
    tiles, _ = cut_tiles(drawn(image(Polygons.pack([RING]))), Tiles(25, 40, 10))
    loaded = list(load_images(tiles, ImageFolder(str(tmp_path)), RecordOptions()))
    assert len(reads) == 1
    assert [one.image_id for one, _ in loaded] == [tile.image_id for tile in tiles]
    for tile, (checked, _, _) in loaded:
        assert tile.view
        assert not isinstance(checked, Problem)
        with Image.open(io.BytesIO(checked.data)) as picture:
            found = np.asarray(picture)
        assert np.array_equal(found, pixels[tile.view.top : tile.view.top + 25, tile.view.left : tile.view.left + 40])


def test_an_image_that_is_one_tile_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), (1, 200, 3)).save(tmp_path / "a/b.png", quality=40, format="JPEG")
    (tile,), _ = cut_tiles(drawn(image(Polygons.pack([RING]))), Tiles(1000, 1000, 0))
    ((_, loaded),) = load_images([tile], ImageFolder(str(tmp_path)), RecordOptions())
    assert not isinstance(loaded.checked, Problem)
    assert loaded.checked.data == (tmp_path / "a/b.png").read_bytes()
    assert loaded.checked.fixes == ("IMAGE_TILED",)


def test_a_file_that_is_not_there_is_told_of_each_tile(tmp_path: Path) -> None:
    tiles, _ = cut_tiles(drawn(image(Polygons.pack([RING]))), Tiles(25, 40, 10))
    loaded = [one.checked for _, one in load_images(tiles, ImageFolder(str(tmp_path)), RecordOptions())]
    assert [one.code for one in loaded if isinstance(one, Problem)] == ["IMAGE_MISSING"] * len(tiles)


# ----------------------------------------------------------------------------------------------------- whole runs


def polygons_of(annotation: dict[str, Any]) -> list[list[float]]:
    rings: list[list[float]] = annotation["segmentation"]
    return rings


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Six PNGs of noise with an outline each, in COCO's format."""
    folder = tmp_path_factory.mktemp("drawing")
    random = np.random.default_rng(5)
    images, annotations = [], []
    for number in range(1, 7):
        height, width = 80 + 7 * number, 130 + 3 * number
        Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        ring = [10, 8.5, width - 9.25, 20, width / 2, height - 5]
        annotations.append({"id": number, "image_id": number, "category_id": 1, "segmentation": [ring], "iscrowd": 0})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "all.json").write_text(json.dumps(data))
    return Data(folder / "all.json", folder)


def test_a_run_of_tiles_of_scaled_images(drawing: Data, tmp_path: Path) -> None:
    options = {"max_side": 100, "tile": "40x30", "tile_overlap": 8, "tile_min_share": 0.05, "splits": "train=0.5,val=0.5"}
    manifest = run_format("coco", drawing.annotations, drawing.images, tmp_path / "out", num_shards="2", **options)
    records = by_file_name(read_back(tmp_path / "out"))
    assert manifest["images"] == {"read": len(records), "written": len(records), "rejected": 0, "dropped": 0}
    assert verify(str(tmp_path / "out")) == []
    source = json.loads(drawing.annotations.read_text())
    wholes: dict[int, np.ndarray] = {}
    compared = slivers = 0
    for entry, annotation in zip(source["images"], source["annotations"], strict=True):
        height, width = round(entry["height"] * 100 / entry["width"]), 100
        (ring,) = polygons_of(annotation)
        scales = [height / entry["height"] if place % 2 else width / entry["width"] for place in range(6)]
        wholes[entry["id"]] = of_pycocotools([value * scale for value, scale in zip(ring, scales, strict=True)], height, width)
    for name, record in records.items():
        file_name, corner = name.split("@")
        left, top = map(int, corner.split(","))
        whole = wholes[int(file_name.removesuffix(".png"))]
        part = whole[top : top + 30, left : left + 40]
        with Image.open(drawing.images / file_name) as picture:
            scaled = np.asarray(picture.resize((whole.shape[1], whole.shape[0]), Image.Resampling.LANCZOS))
        assert np.array_equal(record["pixels"], scaled[top : top + 30, left : left + 40])
        assert int(record["image/source_id"]) // MOST_TILES == int(file_name.removesuffix(".png"))
        if len(record["masks"]):
            assert np.array_equal(record["masks"], [part])
            compared += 1
        else:
            slivers += bool(part.any())
            assert part.sum() < 0.05 * min(whole.sum(), 30 * 40)
    assert compared > 30
    assert manifest["reasons"]["annotation"].get("DROPPED_SLIVER", 0) == slivers
    splits = {}
    for record in records.values():
        splits.setdefault(int(record["image/source_id"]) // MOST_TILES, set()).add(record["shard"])
    assert all(len(shards) == 1 for shards in splits.values())
    found = [split["fixes"] for split in json.loads((tmp_path / "out/statistics.json").read_text()).values()]
    for fix in ("IMAGE_SCALED", "IMAGE_TILED"):
        assert sum(fixes.get(fix, 0) for fixes in found) == len(records)
    before = digests(tmp_path / "out")
    again = {"num_shards": "2", "resume": True, **options}
    run_format("coco", drawing.annotations, drawing.images, tmp_path / "out", **again)
    assert {name: found for name, found in digests(tmp_path / "out").items() if name.endswith(".tfrecord")} == {
        name: found for name, found in before.items() if name.endswith(".tfrecord")
    }


def test_scaled_jpegs_stay_jpegs(demo_data: Data, tmp_path: Path) -> None:
    options = {"max_side": 100, "max_reject_fraction": 1.0}
    manifest = run_format("coco", demo_data.annotations, demo_data.images, tmp_path / "out", **options)
    assert manifest["images"]["written"] > 10
    records = list(read_back(tmp_path / "out"))
    assert {max(record["pixels"].shape) for record in records} == {100}
    assert all(record["pixels"].shape[:2] == record["masks"].shape[1:] for record in records)
    kinds = {record["image/encoded"][:3] for record in records}
    assert kinds == {b"\xff\xd8\xff", b"\x89PN"}
    assert verify(str(tmp_path / "out")) == []


@pytest.mark.parametrize("options", [{"max_side": 50}, {"tile": "40x30", "tile_overlap": 8}])
def test_a_png_that_is_cut_off_is_no_picture(drawing: Data, tmp_path: Path, options: dict[str, Any]) -> None:
    data = json.loads(drawing.annotations.read_text())
    data |= {key: data[key][:2] for key in ("images", "annotations")}
    (tmp_path / "some.json").write_text(json.dumps(data))
    (tmp_path / "2.png").write_bytes((drawing.images / "2.png").read_bytes())
    (tmp_path / "1.png").write_bytes(half_of((drawing.images / "1.png").read_bytes()))
    given = {"max_reject_fraction": 1.0, "check_images": "header", **options}
    manifest = run_format("coco", tmp_path / "some.json", tmp_path, tmp_path / "out", **given)
    assert manifest["images"]["written"] > 0
    assert set(manifest["reasons"]["image"]) == {"IMAGE_CORRUPT"}


def half_of(png: bytes) -> bytes:
    """A PNG that announces twice the rows that it has, and is sound otherwise."""
    with Image.open(io.BytesIO(png)) as whole:
        upper = whole.crop((0, 0, whole.width, whole.height // 2))
        file = io.BytesIO()
        upper.save(file, "PNG")
        data = bytearray(file.getvalue())
        data[20:24] = whole.height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_an_overlap_as_large_as_a_tile_is_refused(drawing: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected less than the sides"):
        run_format("coco", drawing.annotations, drawing.images, tmp_path / "out", tile="40x30", tile_overlap=30)
