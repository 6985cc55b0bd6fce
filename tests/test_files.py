"""Files of annotations are found wherever they lie, and told what is wrong with the images beside them."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from PIL import Image
from sources import run_format, source_images

from transforms.images import ImageFolder
from transforms.records import InputError, Problem
from transforms.sources.files import folder_of
from transforms.sources.mask_files import decode_ids, image_size, read_ids

YOLO = "0 0.1 0.1 0.9 0.2 0.5 0.8"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Labels in two folders, and images of the same names, in the current folder."""
    for number, folder in enumerate(("a", "b")):
        for kind in ("labels", "images"):
            (tmp_path / kind / folder).mkdir(parents=True)
        (tmp_path / "labels" / folder / "x.txt").write_text(YOLO)
        Image.new("RGB", (30 + number, 20)).save(tmp_path / "images" / folder / "x.png")
    (tmp_path / "labels/data.yaml").write_text("names: [cat]")
    Image.new("RGB", (90, 80)).save(tmp_path / "images/x.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("given", ["labels", "labels/", "labels//", "labels/*/*.txt", "./labels/*/x.txt"])
@pytest.mark.parametrize("absolute", [True, False])
def test_images_mirror_annotations_however_these_are_named(given: str, absolute: bool, here: Path) -> None:
    annotations = f"{here}/{given}" if absolute else given
    manifest = run_format("yolo", annotations, "images", "out")
    assert manifest["images"] == {"read": 2, "written": 2, "rejected": 0, "dropped": 0}
    found = source_images("yolo", Path(given), Path("images")) if not absolute and "//" not in given else []
    assert {(one.image.file_name, one.image.width) for one in found} <= {("a/x.png", 30), ("b/x.png", 31)}


def test_a_file_with_brackets_in_its_folder(here: Path) -> None:
    (here / "l [1]").mkdir()
    (here / "l [1]/x.txt").write_text(YOLO)
    assert folder_of(str(here / "l [1]/x.txt")) == str(here / "l [1]")


def png_header(height: int, width: int) -> bytes:
    """A PNG of some hundred bytes that claims to be large."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(b"\0")
    chunks = (struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in (header, pixels, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [20_000, 100_000])
def test_a_header_that_claims_much_is_the_images_fault(side: int, here: Path) -> None:
    (here / "images/a/x.png").write_bytes(png_header(side, side + 1))
    manifest = run_format("yolo", "labels", "images", "out", max_reject_fraction=1.0)
    assert manifest["images"] == {"read": 2, "written": 1, "rejected": 1, "dropped": 0}
    assert set(manifest["reasons"]["image"]) <= {"DIM_LIMIT", "PIXEL_LIMIT"}


def test_a_size_is_read_from_the_header_alone(tmp_path: Path) -> None:
    Image.new("L", (9000, 8000)).save(tmp_path / "large.png")
    tracemalloc.start()
    assert image_size(ImageFolder(str(tmp_path)), "large.png") == (8000, 9000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000  # decoded, it has 72


@pytest.mark.parametrize(("orientation", "expected"), [(1, (20, 30)), (3, (20, 30)), (6, (30, 20)), (8, (30, 20))])
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_a_size_is_that_of_the_upright_image(extension: str, orientation: int, expected: tuple[int, int], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / f"a.{extension}", exif=exif)
    assert image_size(ImageFolder(str(tmp_path)), f"a.{extension}") == expected


def test_what_stands_before_the_size_may_be_long(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", icc_profile=b"x" * 300_000)
    assert image_size(ImageFolder(str(tmp_path)), "a.jpg") == (20, 30)


@pytest.mark.parametrize(
    ("data", "code"), [(b"", "IMAGE_CORRUPT"), (b"<html>", "IMAGE_CORRUPT"), (b"\xff\xd8\xff\xe0", "IMAGE_CORRUPT")]
)
def test_what_is_no_image_is_told(data: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    found = image_size(ImageFolder(str(tmp_path)), "a.jpg")
    assert isinstance(found, Problem)
    assert found.code == code


def test_a_mask_that_is_cut_off_is_told() -> None:
    found = decode_ids(png_header(20, 30), "a.png", 1000)
    assert isinstance(found, Problem)
    assert found.code == "MASK_INVALID"
    assert isinstance(decode_ids(png_header(2000, 3000), "a.png", 1000), Problem)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for found in (read_ids(str(tmp_path / "a.png"), 1000), image_size(ImageFolder(str(tmp_path)), "a.png")):
        assert isinstance(found, Problem)


@pytest.mark.parametrize(("name", "text"), [("all.jsonl", "\n"), ("labels/data.yaml", "names: [cat]")])
def test_where_there_is_no_image_there_is_no_data_set(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="there is no"):
        run_format("jsonl" if name == "all.jsonl" else "yolo", tmp_path, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out/_SUCCESS").exists()
