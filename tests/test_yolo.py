"""YOLO: polygons as pycocotools draws them at the image's own size, images found beside or below, classes from data.yaml."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as cocomask
from pycocotools.coco import COCO
from sources import Drawn, all_drawn, by_file_name, run_format, source_images
from test_end_to_end import read_back

from transforms.records import Category, InputError
from transforms.sources import yolo
from transforms.sources.once import forget
from transforms.sources.source import Context

HEIGHT, WIDTH = 40, 60
TRIANGLE = [0.05, 0.1, 0.7, 0.2125, 0.3375, 0.825]
OTHER = [0.75, 0.5, 0.96, 0.55, 0.8, 0.95]


@pytest.fixture(autouse=True)
def _forget() -> None:
    forget()


def line(index: object, numbers: list[float]) -> str:
    return " ".join(map(str, (index, *numbers)))


def picture(path: Path, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = (HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT)
    Image.new("RGB", size, (200, 30, 60)).save(path, exif=exif)


def data_set(folder: Path, labels: str | bytes, names: str = "names: [cat, dog]") -> Path:
    """labels/train/one.txt, images/train/one.jpg, data.yaml."""
    (folder / "labels/train").mkdir(parents=True)
    (folder / "labels/train/one.txt").write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    picture(folder / "images/train/one.jpg")
    (folder / "data.yaml").write_text(f"path: ../data\ntrain: images/train\nval: images/train\n{names}\n")
    return folder


def one(folder: Path, *lines: str) -> Drawn:
    data_set(folder, "\n".join(lines))
    (found,) = all_drawn("yolo", folder / "labels", folder / "images").values()
    return found


def of_pycocotools(*rings: list[float]) -> np.ndarray:
    pixels = [[share * (HEIGHT if at % 2 else WIDTH) for at, share in enumerate(ring)] for ring in rings]
    return cocomask.decode(cocomask.merge(cocomask.frPyObjects(pixels, HEIGHT, WIDTH)))


def test_a_polygon_is_drawn_as_pycocotools_draws_it(tmp_path: Path) -> None:
    found = one(tmp_path, line(1, TRIANGLE), "", line(0, OTHER), line(0, TRIANGLE) + "\r")
    assert found.image.file_name == "train/one.jpg"
    assert found.names == ["dog", "cat", "cat"]
    assert np.array_equal(found.masks, [of_pycocotools(TRIANGLE), of_pycocotools(OTHER), of_pycocotools(TRIANGLE)])


def test_four_numbers_are_a_box(tmp_path: Path) -> None:
    (instance,) = one(tmp_path, line(0, [0.5, 0.25, 0.2, 0.5])).instances
    assert instance.shape is None
    assert instance.box == pytest.approx((0, 24, 20, 36))


def test_what_is_over_the_edge_is_cut_off(tmp_path: Path) -> None:
    ring = [0.5, 0.5, 1.02, 0.4, 0.9, 1.1]
    found = one(tmp_path, line(0, ring))
    assert np.array_equal(found.masks, [of_pycocotools(ring)])
    assert found.instances[0].fixes[0] == "POLYGON_CLIPPED"


def test_shares_are_of_the_image_as_it_is_seen(tmp_path: Path) -> None:
    data_set(tmp_path, line(0, TRIANGLE))
    picture(tmp_path / "images/train/one.jpg", orientation=6)
    (found,) = all_drawn("yolo", tmp_path / "labels", tmp_path / "images").values()
    assert np.array_equal(found.masks, [of_pycocotools(TRIANGLE)])


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ("2 0.1 0.1 0.5 0.1 0.5 0.5", "CATEGORY_UNKNOWN"),
        ("-1 0.1 0.1 0.5 0.1 0.5 0.5", "CATEGORY_UNKNOWN"),
        ("cat 0.1 0.1 0.5 0.1 0.5 0.5", "FIELD_INVALID"),
        (f"{'9' * 9999} 0.1 0.1 0.5 0.1 0.5 0.5", "FIELD_INVALID"),
        ("0", "POLY_MALFORMED"),
        ("0 0.1 0.1", "POLY_MALFORMED"),
        ("0 0.1 0.1 0.5 0.5 0.9", "POLY_MALFORMED"),  # a box, and how sure a model was
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.9", "POLY_MALFORMED"),
        ("0 0.1 0.1 0.5 x 0.5 0.5", "COORD_INVALID"),
        ("0 0.1 0.1 0.5 nan 0.5 0.5", "COORD_INVALID"),
        ("0 0.1 0.1 0.5 1e308 0.5 0.5", "COORD_INVALID"),
        ("0 0.1 nan 0.5 0.5", "COORD_INVALID"),
        ("0 12 7 30 9 22 35", "COORD_INVALID"),  # pixels
        ("0 1.1 1.1 1.5 1.1 1.5 1.5", "EMPTY_MASK"),
        ("0 0.5 0.5 0 0.5", "BOX_INVALID"),
    ],
)
def test_what_is_wrong_with_a_line_is_its_own(bad: str, code: str, tmp_path: Path) -> None:
    found = one(tmp_path, line(0, TRIANGLE), bad, line(1, OTHER))
    assert found.rejects == {2: code}
    assert found.names == ["cat", "dog"]
    assert [instance.annotation_id for instance in found.instances] == [1, 3]


def test_what_is_wrong_with_a_file_is_its_images(tmp_path: Path) -> None:
    data_set(tmp_path, line(0, TRIANGLE))
    (tmp_path / "labels/train/bad.txt").write_bytes(b"0 \xff\xff")
    picture(tmp_path / "images/train/bad.png")
    (tmp_path / "labels/train/broken.txt").write_text(line(0, TRIANGLE))
    (tmp_path / "images/train/broken.png").write_bytes(b"not a picture")
    (tmp_path / "labels/train/lost.txt").write_text(line(0, TRIANGLE))
    found = {one.image.file_name: one for one in source_images("yolo", tmp_path / "labels", tmp_path / "images")}
    codes = {name: one.problem.code if one.problem else None for name, one in found.items()}
    assert codes == {
        "train/bad.png": "TEXT_INVALID",
        "train/broken.png": "IMAGE_CORRUPT",
        "train/lost.txt": "IMAGE_MISSING",
        "train/one.jpg": None,
    }
    assert "'train/lost'" in found["train/lost.txt"].problem.message  # type: ignore[union-attr]
    (limited,) = [
        one
        for one in source_images("yolo", tmp_path / "labels", tmp_path / "images", max_pixels=2000)
        if one.image.file_name == "train/one.jpg"
    ]
    assert limited.problem
    assert limited.problem.code == "DIM_LIMIT"


@pytest.mark.parametrize(
    ("labels", "image", "annotations", "images", "expected"),
    [
        ("labels/train/a.txt", "images/train/a.jpg", "labels", "images", "train/a.jpg"),
        ("labels/train/a.txt", "images/train/a.JPG", "labels/train", "images/train", "a.JPG"),
        ("labels/train/a.txt", "images/train/a.png", ".", ".", "images/train/a.png"),
        ("labels/train/a.txt", "images/train/a.png", ".", "images", "train/a.png"),
        ("train/labels/a.b.txt", "train/images/a.b.webp", ".", ".", "train/images/a.b.webp"),  # Roboflow's order
        ("labels/labels/x/a.txt", "labels/images/x/a.png", ".", ".", "labels/images/x/a.png"),
        ("all/a.txt", "all/a.jpeg", ".", ".", "all/a.jpeg"),
        ("labels/test.txt", "images/test.jpg", ".", ".", "images/test.jpg"),
        ("labels/train/a.txt", "pictures/train/a.jpg", "labels", "pictures", "train/a.jpg"),
    ],
)
def test_the_image_mirrors_the_labels(
    labels: str, image: str, annotations: str, images: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / labels).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / labels).write_text(line(0, TRIANGLE))
    picture(tmp_path / image)
    for name in ("data.yaml", "train.txt", "README.roboflow.txt", "classes.txt"):
        (tmp_path / name).write_text("names: {0: cat}" if name == "data.yaml" else "./images/train/a.jpg\n")
    (tmp_path / labels).with_name("classes.txt").write_text("cat\n")
    (found,) = all_drawn("yolo", tmp_path / annotations, tmp_path / images).values()
    assert found.image.file_name == expected
    assert np.array_equal(found.masks, [of_pycocotools(TRIANGLE)])


def test_of_two_images_the_first_is_taken(tmp_path: Path) -> None:
    data_set(tmp_path, "")
    picture(tmp_path / "images/train/one.png")
    (tmp_path / "images/train/one.json").write_text("{}")
    (found,) = source_images("yolo", tmp_path / "labels", tmp_path / "images")
    assert (found.image.file_name, found.annotations, found.problem) == ("train/one.jpg", 0, None)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("data.yaml", "names: [cat, dog]", [(1, "cat"), (2, "dog")]),
        ("data.yaml", "names:\n  0: cat\n  2: hot dog\n", [(1, "cat"), (3, "hot dog")]),
        ("data.yaml", "names: {'1': cat, 0: 7}", [(1, "7"), (2, "cat")]),
        ("labels/coco8-seg.yml", "nc: 1\nnames: ['ü']", [(1, "ü")]),
        ("classes.txt", "cat\r\nhot dog\n\n", [(1, "cat"), (2, "hot dog")]),
    ],
)
def test_classes_are_in_the_order_of_their_list(name: str, text: str, expected: list[tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "hyp.yaml").write_text("lr0: 0.01")
    found = yolo.categories(Context(str(tmp_path / "labels/train"), None))  # type: ignore[arg-type]
    assert found == [Category(*one) for one in expected]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "there is no data.yaml"),
        ({"data.yaml": "train: images"}, "there is no data.yaml"),
        ({"data.yaml": "names: ["}, "FILE_INVALID: .*data.yaml: while parsing"),
        ({"data.yaml": "[" * 100_000}, "FILE_INVALID"),
        ({"data.yaml": "names: 3"}, "expected names"),
        ({"data.yaml": "names: []"}, "expected names"),
        ({"data.yaml": "names: [[cat]]"}, "expected a number and a name"),
        ({"data.yaml": "names: {x: cat}"}, "expected a number and a name"),
        ({"data.yaml": r'names: ["\ud800"]'}, r"FILE_INVALID: .*data.yaml: the name of class 0 is not valid Unicode: '\\ud800'"),
        ({"data.yaml": r'names: [cat, "\udcff", "\udcff"]'}, "the name of class 1 is not valid Unicode"),
        ({"data.yaml": "names: [cat, '']"}, "FILE_INVALID: .*data.yaml: expected names, .*none of them empty"),
        ({"data.yaml": "names: [cat, ' ']"}, "FILE_INVALID: .*data.yaml: expected names, .*none of them empty"),
        ({"data.yaml": "names: [0x" + "f" * 5000 + "]"}, "a number of 5002 characters"),
        ({"data.yaml": "names: [cat, cat]"}, "the same name or number: cat"),
        ({"data.yaml": "names: !!python/object/apply:os.system [ls]"}, "FILE_INVALID"),
        ({"data.yaml": "a: &a [x]\nnames: *a"}, "refers to a part of itself"),
        ({"data.yaml": "a: 2001-99-99\nnames: [cat]"}, "FILE_INVALID"),
        ({"data.yaml": "names: [" + "cat, " * 300_000 + "]"}, "larger than"),
        ({"data.yaml": b"names: [\xff]"}, "not UTF-8"),
        ({"a.yaml": "names: [cat]", "b.yaml": "names: [dog]"}, "several files"),
    ],
)
def test_a_list_of_classes_that_is_none_says_so(files: dict[str, str | bytes], says: str, tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "a/b" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=says):
        yolo.classes(str(tmp_path / "a/b/c"))


def test_a_whole_run(tmp_path: Path) -> None:
    data_set(tmp_path, "\n".join((line(1, TRIANGLE), line(1, OTHER), line(7, OTHER))), "names: [cat, dog, bird]")
    (tmp_path / "labels/train/empty.txt").write_text("")
    picture(tmp_path / "images/train/empty.png")
    output = tmp_path / "out"
    manifest = run_format("yolo", tmp_path / "labels", tmp_path / "images", output, max_reject_fraction=0.5)
    assert manifest["images"] == {"read": 2, "written": 2, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 3, "written": 2, "rejected": 1, "dropped": 0}
    records = by_file_name(read_back(output))
    assert np.array_equal(records["train/one.jpg"]["masks"], [of_pycocotools(TRIANGLE), of_pycocotools(OTHER)])
    assert records["train/one.jpg"]["image/object/class/label"].tolist() == [2, 2]
    assert len(records["train/empty.png"]["masks"]) == 0


def test_polygons_of_coco_come_back(real_data: Path, tmp_path: Path) -> None:
    """Written with six digits, as Ultralytics' `convert_coco` does, all but a few pixels at the edges are the same."""
    coco = COCO(next((real_data / "tinycoco").rglob("instances_val2017*.json")))
    (tmp_path / "labels").mkdir()
    (tmp_path / "data.yaml").write_text("names: [thing]")
    expected: dict[str, list[np.ndarray]] = {}
    for image in coco.imgs.values():
        found = [one for one in coco.imgToAnns[image["id"]] if not one["iscrowd"] and len(one["segmentation"]) == 1]
        Image.new("RGB", (image["width"], image["height"])).save(tmp_path / image["file_name"])
        sides = (image["width"], image["height"])
        lines = [" ".join(f"{value / sides[at % 2]:.6g}" for at, value in enumerate(one["segmentation"][0])) for one in found]
        (tmp_path / "labels" / image["file_name"]).with_suffix(".txt").write_text("".join(f"0 {line}\n" for line in lines))
        expected[image["file_name"]] = [coco.annToMask(one) for one in found]
    compared = 0
    for name, one in all_drawn("yolo", tmp_path / "labels", tmp_path).items():
        assert len(one.masks) == len(expected[name])
        for mask, truth in zip(one.masks, expected[name], strict=True):
            assert (mask != truth).sum() <= max(3, 0.002 * truth.sum())
            compared += 1
    assert compared > 80


def test_recognise() -> None:
    assert yolo.FORMAT.recognise("a/one.txt", line(1, TRIANGLE).encode())
    assert yolo.FORMAT.recognise("a/one.txt", (line(1, TRIANGLE) + "\n").encode())
    assert not yolo.FORMAT.recognise("a/one.txt", b"")
    assert not yolo.FORMAT.recognise("a/one.txt", b"./images/a.jpg\n")
    assert not yolo.FORMAT.recognise("a/one.txt", b"0 12 7 30 9 22 35\n")
    assert not yolo.FORMAT.recognise("a/one.csv", line(1, TRIANGLE).encode())


def test_files_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(line(0, TRIANGLE))
    (tmp_path / "mkdocs.yml").write_text("theme: !!python/name:x.y\n")
    (tmp_path / "broken.yaml").write_text("[")
    (tmp_path / "voc.yaml").write_text("names: [cat]\n")
    (found,) = source_images("yolo", tmp_path / "labels", tmp_path / "images")
    assert found.names == ("cat",)


def test_classes_are_found_above_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(line(0, TRIANGLE))
    (tmp_path / "data.yaml").write_text("names: [cat]\n")
    monkeypatch.chdir(tmp_path)
    (found,) = source_images("yolo", Path("labels"), Path("images"))
    assert found.names == ("cat",)
