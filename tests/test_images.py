"""Images: nothing outside their folder is opened, damage is found, and TensorFlow decodes what is accepted."""

from __future__ import annotations

import hashlib
import os
import socket
import zlib

import numpy as np
import pytest
from apache_beam.io.filesystems import FileSystems
from conftest import REAL_DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import (
    GREY_ROWS,
    HEIGHT,
    TURNS,
    WIDTH,
    animated,
    corrupt_jpeg,
    jpeg_of,
    opened,
    picture,
    png_of,
    png_with,
    saved,
    with_orientation,
)
from PIL import Image, ImageFile, ImageSequence

from transforms import images, storage
from transforms.images import CheckedImage, ImageFolder, check_image
from transforms.records import Problem

pytestmark = [
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning"),
    pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning"),
]

NO_CAP = 10**8


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def check(data, height=HEIGHT, width=WIDTH, max_pixels=NO_CAP, how="full"):
    return check_image(data, height, width, max_pixels, how)


def code_of(found):
    return found.code if isinstance(found, Problem) else "accepted"


def pixels_by_tensorflow(tf, data):
    return tf.io.decode_image(data, channels=3, expand_animations=False).numpy()


# ------------------------------------------------------------------------------------------------------------ paths


@pytest.fixture
def folder(tmp_path):
    """An image folder with secrets around it."""
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.png", "ä ü.png", "a..b.jpg", "...", "sub/c%2e.jpg", "a*[b]?.jpg"):
        (root / name).write_bytes(name.encode())
    (tmp_path / "images2").mkdir()
    for name in ("secret.jpg", "images2/secret.jpg"):
        (tmp_path / name).write_bytes(b"secret")
    return root


@pytest.fixture
def reads(monkeypatch):
    """The paths that would be opened from now on; none of them is."""
    paths = []

    def record(path, *arguments, **options):
        paths.append(path)
        return b""

    monkeypatch.setattr(FileSystems, "open", record)
    monkeypatch.setattr(storage, "read_bytes", record)
    return paths


@pytest.mark.parametrize("name", ["a.jpg", "sub/b.png", "ä ü.png", "a..b.jpg", "...", "sub/c%2e.jpg", "a*[b]?.jpg"])
def test_files_in_the_folder_are_read_by_their_exact_name(folder, name):
    assert ImageFolder(str(folder)).locate(name) == str(folder / name)
    assert ImageFolder(str(folder)).read(name) == name.encode()


@pytest.mark.parametrize("name", ["./a.jpg", "sub//b.png", "sub/./b.png", ".//sub/b.png"])
def test_superfluous_dots_and_slashes_do_not_matter(folder, name):
    assert ImageFolder(str(folder)).read(name) in (b"a.jpg", b"sub/b.png")


def test_a_relative_root_and_one_that_ends_in_a_slash_work(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for root in ("images", "./images/", f"{folder}/"):
        assert ImageFolder(root).read("sub/b.png") == b"sub/b.png"
        assert code_of(ImageFolder(root).read("../secret.jpg")) == "PATH_FORBIDDEN"


FORBIDDEN = [
    "..",
    "../",
    "../secret.jpg",
    "../images2/secret.jpg",
    "../images/a.jpg",
    "sub/../../secret.jpg",
    "sub/..",
    "./../secret.jpg",
    "sub//..//..//secret.jpg",
    "/etc/passwd",
    "//etc/passwd",
    "/",
    "../../../../../../etc/passwd",
    "gs://other/x",
    "gs://bucket/images/../x",
    "s3://other/x",
    "http://169.254.169.254/",
    "https://example.com/a.jpg",
    "file:///etc/passwd",
    "sub/http://example.com",
    "a.jpg\0",
    "\0",
    "a\0/../../secret.jpg",
    "..\\secret.jpg",
    "sub\\b.png",
    "\\\\host\\share\\x",
    "C:\\x.jpg",
]


@pytest.mark.parametrize("root", [None, "gs://bucket/images"], ids=["folder", "bucket"])
@pytest.mark.parametrize("name", FORBIDDEN, ids=ascii)
def test_a_name_that_leads_out_is_forbidden_and_nothing_is_opened(folder, reads, name, root):
    found = ImageFolder(root or str(folder)).read(name)
    assert found.code == "PATH_FORBIDDEN"
    assert repr(name) in found.message
    assert reads == []


LINKS_OUT = {
    "a file": "../secret.jpg",
    "a folder": "..",
    "a folder whose name begins like the root's": "../images2",
    "a file by its whole path": "{parent}/secret.jpg",
    "nothing, outside": "../nothing",
    "a device": "/dev/null",
    "a link": "sub/second",
}


@pytest.mark.parametrize("target", LINKS_OUT.values(), ids=LINKS_OUT)
def test_a_link_that_leads_out_is_forbidden_and_nothing_is_opened(folder, reads, target):
    (folder / "sub" / "second").symlink_to("../../secret.jpg")
    (folder / "link").symlink_to(target.format(parent=folder.parent))
    for name in ("link", "link/secret.jpg", "sub/second"):
        assert ImageFolder(str(folder)).read(name).code == "PATH_FORBIDDEN"
    assert reads == []


def test_links_that_stay_inside_and_a_root_that_is_a_link_are_followed(folder):
    (folder / "link").symlink_to("sub")
    (folder / "sub" / "back.jpg").symlink_to(folder / "a.jpg")
    root = folder.parent / "linked"
    root.symlink_to("images")
    for given_root in (folder, root):
        images = ImageFolder(str(given_root))
        assert images.read("link/b.png") == b"sub/b.png"
        assert images.read("link/back.jpg") == b"a.jpg"


@pytest.mark.parametrize("name", ["b.jpg", "sub/a.jpg", "none/a.jpg", "a.jpg/b", "sub", "", "."])
def test_a_file_that_is_not_there_is_missing(folder, name):
    found = ImageFolder(str(folder)).read(name)
    assert found.code == "IMAGE_MISSING"
    assert (repr(name) in found.message, str(folder) in found.message) == (True, False)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "sub/" * 2000, "loop"], ids=["300", "5000", "deep", "loop"])
def test_a_name_that_no_file_can_have_is_a_problem_of_the_data(folder, name):
    (folder / "loop").symlink_to("loop")
    assert isinstance(ImageFolder(str(folder)).read(name), Problem)


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), TimeoutError("slow"), OSError(5, "I/O error")])
def test_storage_that_fails_is_no_problem_of_the_data(folder, monkeypatch, error):
    def fail(path, take):
        raise error

    monkeypatch.setattr(storage, "read_bytes", fail)
    with pytest.raises(type(error)):
        ImageFolder(str(folder)).read("a.jpg")


def a_pipe(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)


@pytest.mark.parametrize("make", [a_pipe, a_socket])
def test_what_is_no_file_is_not_opened(folder, reads, make, monkeypatch):
    monkeypatch.chdir(folder)  # the path of a socket can't be long
    make("odd")
    found = ImageFolder(str(folder)).read("odd")
    assert found.code == "IMAGE_MISSING"
    assert "is a pipe or a device" in found.message
    assert reads == []


def test_a_file_larger_than_a_record_is_not_opened(folder, reads):
    with (folder / "large.jpg").open("wb") as file:
        file.truncate(10**12)
    found = ImageFolder(str(folder)).read("large.jpg")
    assert found.code == "RECORD_LIMIT"
    assert "1000000.0 MB, at most 512.0" in found.message
    assert reads == []
    assert ImageFolder(str(folder), 5).read("a.jpg") == b""
    assert ImageFolder(str(folder), 4).read("a.jpg").code == "RECORD_LIMIT"
    assert reads == [str(folder / "a.jpg")]


def test_names_in_a_bucket_are_joined_to_its_path():
    images = ImageFolder("gs://bucket/images")
    assert images.locate("sub/a.jpg") == images.locate("./sub//a.jpg") == "gs://bucket/images/sub/a.jpg"


# ------------------------------------------------------------------------------------------------------ passed on

PASSED_ON = {
    "JPEG": saved(picture(), "JPEG"),
    "JPEG, grey": saved(picture(mode="L"), "JPEG"),
    "JPEG, progressive": saved(picture(), "JPEG", progressive=True),
    "JPEG, without subsampling": saved(picture(), "JPEG", subsampling=0),
    "JPEG, restart markers": saved(picture(), "JPEG", restart_marker_blocks=1),
    "JPEG, stored as RGB": saved(picture(), "JPEG", keep_rgb=True),
    "JPEG, comment with markers": saved(picture(), "JPEG", comment=b"\xff\xd9\xff\xc3\xff\xda"),
    "JPEG, bytes after the end": saved(picture(), "JPEG") + b"trailing",
    "JPEG, fill bytes between segments": saved(picture(), "JPEG").replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),
    "JPEG, stray bytes between segments": saved(picture(), "JPEG").replace(b"\xff\xdb", b"\0\0\xff\xdb", 1),
    "JPEG, two pictures (MPO)": saved(picture(), "MPO", save_all=True, append_images=[picture(8, 9)]),
    "PNG": saved(picture(), "PNG"),
    "PNG, grey": saved(picture(mode="L"), "PNG"),
    "PNG, uncompressed": saved(picture(), "PNG", compress_level=0),
    "PNG, bytes after the end": saved(picture(), "PNG") + b"trailing",
    "PNG, pixels in several chunks": png_with((b"IDAT", GREY_ROWS[:9]), (b"IDAT", b""), (b"IDAT", GREY_ROWS[9:])),
    "PNG, more rows than it says": png_of(HEIGHT, WIDTH, 8, 0, [bytes(WIDTH)] * (HEIGHT + 1)),
    "PNG, interlaced": png_with((b"IDAT", zlib.compress(bytes(HEIGHT * WIDTH + 45))), interlaced=1),
    "PNG, text and resolution": saved(picture(), "PNG", dpi=(300, 300), icc_profile=b"profile"),
}


@pytest.mark.parametrize("data", PASSED_ON.values(), ids=PASSED_ON)
def test_what_both_trainers_decode_is_passed_on_byte_for_byte(tf, data):
    found = check(data)
    image_format = "png" if data.startswith(b"\x89PNG") else "jpeg"
    assert found == CheckedImage(data, image_format, HEIGHT, WIDTH, hashlib.sha256(data).hexdigest(), ())
    assert found.data is data
    theirs, pillows = pixels_by_tensorflow(tf, data), np.asarray(opened(data).convert("RGB"))
    assert theirs.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(theirs.astype(int) - pillows).mean() < (4 if image_format == "jpeg" else 1e-9)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (7, 9), (9, 7), (8, 3), (3, 8), (1, 500), (500, 1), (17, 16)])
def test_images_of_any_size_are_passed_on(tf, height, width, image_format):
    data = saved(picture(height, width), image_format)
    found = check(data, height, width)
    assert (found.data, found.height, found.width) == (data, height, width)
    assert pixels_by_tensorflow(tf, found.data).shape == (height, width, 3)


def test_a_png_named_jpg_is_a_png(tmp_path):
    (tmp_path / "a.jpg").write_bytes(saved(picture(), "PNG"))
    (tmp_path / "a.png").write_bytes(saved(picture(), "JPEG"))
    assert check(ImageFolder(str(tmp_path)).read("a.jpg")).format == "png"
    assert check(ImageFolder(str(tmp_path)).read("a.png")).format == "jpeg"


# ----------------------------------------------------------------------------------------------------------- damage

WHOLE = {
    "JPEG": saved(picture(), "JPEG"),
    "grey JPEG": saved(picture(mode="L"), "JPEG"),
    "progressive JPEG": saved(picture(), "JPEG", progressive=True),
    "PNG": saved(picture(), "PNG"),
    "grey PNG": saved(picture(mode="L"), "PNG"),
    "GIF": saved(picture(), "GIF"),
    "BMP": saved(picture(), "BMP"),
    "PPM": saved(picture(), "PPM"),
    "WebP": saved(picture(), "WEBP"),
    "TIFF": saved(picture(), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9], ids=lambda share: f"{share:.0%}")
def test_an_image_of_which_a_part_is_there_is_corrupt(data, share):
    assert code_of(check(data[: int(share * len(data))])) == "IMAGE_CORRUPT"


@pytest.mark.parametrize("name", ["JPEG", "grey JPEG", "progressive JPEG", "PNG", "grey PNG"])
@pytest.mark.parametrize("missing", [1, 2, 3, 4, 11, 12, 13, 16, 20, 24, 40])
def test_an_image_without_its_last_bytes_is_corrupt(name, missing):
    assert code_of(check(WHOLE[name][:-missing])) == "IMAGE_CORRUPT"


NO_IMAGES = {
    "empty": b"",
    "one byte": b"\xff",
    "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "zeros": bytes(1000),
    "JPEG, only the magic": b"\xff\xd8\xff",
    "PNG, only the magic": b"\x89PNG\r\n\x1a\n",
    "PNG without height": png_of(0, 5, 8, 0, []),
    "PNG without width": png_of(5, 0, 8, 0, [b""] * 5),
    "PNG, fewer rows than it says": png_of(HEIGHT, WIDTH, 8, 0, [bytes(WIDTH)] * (HEIGHT - 1)),
    "PNG, interlaced, with half of its pixels": png_with((b"IDAT", zlib.compress(bytes(500))), interlaced=1),
    "PNG without pixels": png_with(),
    "PNG, its pixels without their checksum": png_with((b"IDAT", GREY_ROWS[:-4])),
    "PNG, its pixels with a wrong checksum": png_with((b"IDAT", GREY_ROWS[:-1] + b"\0")),
    "PNG with a chunk that no reader knows and none may skip": png_with((b"ABCD", b"?"), (b"IDAT", GREY_ROWS)),
}


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_no_image_is_corrupt_and_its_beginning_is_told(data):
    found = check(data)
    assert code_of(found) == "IMAGE_CORRUPT"
    assert ("the file is empty" if not data else repr(data[:12])) in found.message


def test_a_png_with_a_wrong_checksum_anywhere_is_corrupt(tf):
    data = WHOLE["grey PNG"]
    assert isinstance(check(data), CheckedImage)
    for place in range(8, len(data), 7):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        assert code_of(check(bytes(damaged))) != "accepted", place


def test_a_jpeg_with_a_damaged_end_marker_is_corrupt(tf):
    damaged = WHOLE["grey JPEG"][:-2] + b"\xff\xd1"
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_jpeg(damaged)
    assert code_of(check(damaged)) == "IMAGE_CORRUPT"


def damaged(whole, random):
    """A bit flipped, some bytes less, or others in the place of one."""
    data = bytearray(whole)
    place, kind = int(random.integers(len(data))), int(random.integers(3))
    if kind == 0:
        data[place] ^= 1 << int(random.integers(8))
    elif kind == 1:
        del data[place : place + int(random.integers(1, 30))]
    else:
        data[place : place + 1] = random.bytes(int(random.integers(1, 5)))
    return bytes(data)


@pytest.mark.parametrize("name", ["PNG", "grey PNG"])
def test_whatever_is_accepted_of_damaged_files_tensorflow_decodes(tf, name):
    random = np.random.default_rng(11)
    for _ in range(150):
        data = damaged(WHOLE[name], random)
        found = check(data)
        if isinstance(found, CheckedImage):
            assert pixels_by_tensorflow(tf, found.data).shape == (HEIGHT, WIDTH, 3)


ROUND_PILLOW = {"JPEG", "JPEG, grey", "JPEG, without subsampling", "JPEG, restart markers", "JPEG, comment with markers"} | {
    "JPEG, bytes after the end"
}
"""What libjpeg-turbo alone has to judge; of all others of `PASSED_ON`, Pillow looks for an orientation, or for more pictures."""


@pytest.mark.parametrize("name", PASSED_ON)
def test_what_is_plain_and_sound_goes_round_pillow_and_nothing_else(monkeypatch, name):
    asked, by_pillow = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **how: asked.append(name) or by_pillow(*args, **how))
    assert check(PASSED_ON[name]).data is PASSED_ON[name]
    assert (asked == []) is (name in ROUND_PILLOW)


@pytest.mark.parametrize("name", sorted(ROUND_PILLOW))
def test_a_damaged_jpeg_has_the_outcome_that_pillow_gives_it(monkeypatch, name):
    random = np.random.default_rng(12)
    accepted = 0
    for _ in range(200):
        data = damaged(PASSED_ON[name], random)
        found = check(data)
        with monkeypatch.context() as patched:
            patched.setattr(images, "is_clean_jpeg", lambda data: False)
            assert check(data) == found
        accepted += isinstance(found, CheckedImage)
    assert 0 < accepted < 200


MAGICS = [
    b"",
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF\0\0\0\0WEBP",
    b"II*\0",
    b"MM\0*",
    b"BM",
    b"P6 ",
    b"P2 ",
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(MAGICS), st.binary(max_size=200))
def test_any_bytes_are_a_problem_and_never_an_exception(magic, rest):
    assert isinstance(check(magic + rest, 1000, 1001), Problem)


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_damage_at_the_beginning_of_a_file_never_raises(data):
    random = np.random.default_rng(len(data))
    for _ in range(150):
        damaged = bytearray(data)
        for place in random.integers(0, min(len(data), 120), int(random.integers(1, 4))):
            damaged[place] = int(random.integers(256))
        assert isinstance(check(bytes(damaged)), CheckedImage | Problem)


# ------------------------------------------------------------------------------------------------------ unsupported


UNSUPPORTED = {
    "animated GIF": animated("GIF"),
    "animated WebP": animated("WEBP", lossless=True),
    "animated PNG": animated("PNG"),
    "TIFF of two pages": animated("TIFF"),
    "HEIC": b"\0\0\0\x1cftypheic\0\0\0\0mif1heic",
    "AVIF": saved(picture(), "AVIF"),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 24\n",
    "JPEG XL, bare": b"\xff\x0a\x41\x24\x08\x04\x01\x00",
    "JPEG XL, boxed": b"\0\0\0\x0cJXL \r\n\x87\n",
    "JPEG 2000": saved(picture(), "JPEG2000"),
    "JPEG 2000, bare": b"\xff\x4f\xff\x51\0\x2f",
    "JPEG of 12 bits": jpeg_of(0xC1, 12),
    "lossless JPEG": jpeg_of(0xC3, 8),
}


@pytest.mark.parametrize("data", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_formats_outside_the_list_and_several_frames_are_unsupported(data):
    assert code_of(check(data)) == "IMAGE_UNSUPPORTED"


def test_the_animations_of_these_tests_have_two_frames():
    for name in ("animated GIF", "animated WebP", "animated PNG", "TIFF of two pages"):
        assert sum(1 for _ in ImageSequence.Iterator(opened(UNSUPPORTED[name]))) == 2


# ------------------------------------------------------------------------------------------------------------- size


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_an_image_over_the_pixel_cap_is_refused(data):
    cap = HEIGHT * WIDTH * (2 if data[8:12] == b"WEBP" else 1)  # a WebP takes three times the memory
    assert isinstance(check(data, max_pixels=cap), CheckedImage)
    found = check(data, max_pixels=cap - 1)
    assert found.code == "PIXEL_LIMIT"
    assert str(cap - 1) in found.message


@pytest.mark.parametrize("pillows_cap", [None, Image.MAX_IMAGE_PIXELS])
@pytest.mark.parametrize("side", [10_001, 13_000, 60_000])
def test_a_bomb_is_refused_by_its_header(monkeypatch, pillows_cap, side):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_cap)
    monkeypatch.setattr(Image.core, "zip_decoder", None)
    bomb = png_of(side, side, 1, 0, [bytes(1000)])
    assert code_of(check(bomb, side, side)) == "PIXEL_LIMIT"


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH + 1), (HEIGHT - 1, WIDTH), (WIDTH, HEIGHT), (1, 1)])
def test_another_size_than_the_annotations_say_is_refused_with_both(data, height, width):
    found = check(data, height, width)
    assert found.code == "DIM_MISMATCH"
    assert f"{HEIGHT} × {WIDTH}" in found.message
    assert f"{height} × {width}" in found.message


# ------------------------------------------------------------------------------------------------------ orientation

EXIF_FORMATS = {
    "JPEG": ("JPEG", {}, ("IMAGE_TURNED",)),
    "PNG": ("PNG", {}, ("IMAGE_TURNED",)),
    "WebP": ("WEBP", {"lossless": True}, ("IMAGE_TURNED", "IMAGE_CONVERTED")),
    "TIFF": ("TIFF", {}, ("IMAGE_TURNED", "IMAGE_CONVERTED")),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(("image_format", "options", "fixes"), EXIF_FORMATS.values(), ids=EXIF_FORMATS)
def test_pixels_are_turned_where_the_annotations_fit_the_upright_image(tf, orientation, image_format, options, fixes):
    data = with_orientation(orientation, image_format, **options)
    stored = np.asarray(opened(data) if image_format == "JPEG" else picture())
    expected = TURNS[orientation](stored)
    height, width = expected.shape[:2]
    assert (height, width) == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))
    found = check(data, height, width)
    assert (found.format, found.height, found.width, found.fixes) == ("png", height, width, fixes)
    assert found.sha256 == hashlib.sha256(found.data).hexdigest()
    np.testing.assert_array_equal(pixels_by_tensorflow(tf, found.data), expected)
    assert opened(found.data).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize(("image_format", "options", "fixes"), EXIF_FORMATS.values(), ids=EXIF_FORMATS)
def test_pixels_are_left_alone_where_the_annotations_fit_the_stored_image(tf, orientation, image_format, options, fixes):
    data = with_orientation(orientation, image_format, **options)
    found = check(data)
    assert (found.height, found.width, found.fixes) == (HEIGHT, WIDTH, ("IMAGE_NOT_TURNED", *fixes[1:]))
    if image_format in ("JPEG", "PNG"):
        assert found.data == data
    else:
        np.testing.assert_array_equal(pixels_by_tensorflow(tf, found.data), np.asarray(picture()))


@pytest.mark.parametrize("orientation", [6, 8])
def test_annotations_that_fit_neither_way_are_a_mismatch(orientation):
    found = check(with_orientation(orientation, "JPEG"), WIDTH, HEIGHT + 1)
    assert found.code == "DIM_MISMATCH"


@pytest.mark.parametrize("orientation", [0, 1, 9, 255])
def test_an_orientation_that_is_upright_or_unknown_changes_nothing(orientation):
    data = with_orientation(orientation, "JPEG")
    assert check(data).data == data
    assert code_of(check(data, WIDTH, HEIGHT)) == "DIM_MISMATCH"


def test_broken_exif_data_does_not_cost_the_image():
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0rubbish", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        data = saved(picture(), "JPEG", exif=exif)
        assert check(data).data == data


# ------------------------------------------------------------------------------------------------------- conversion


def rows_of(pixels):
    return [row.tobytes() for row in pixels]


COLOURS = np.asarray(picture())
DEEP = np.random.default_rng(4).integers(0, 2**16, (HEIGHT, WIDTH, 3))
GREYS = np.random.default_rng(5).integers(0, 4, (HEIGHT, WIDTH))
PACKED_GREYS = [bytes(int("".join(f"{v:02b}" for v in row[i : i + 4]), 2) for i in range(0, WIDTH, 4)) for row in GREYS]
TRANSPARENT = picture(mode="RGBA")
TRANSPARENT.putalpha(picture(mode="L"))
GREY_AND_ALPHA = picture(mode="LA")
GREY_AND_ALPHA.putalpha(picture(mode="L"))
CONVERTED = {
    "PNG, palette": saved(picture().quantize(16), "PNG"),
    "PNG, palette of 256 colours": saved(picture().quantize(256), "PNG"),
    "PNG, palette with a transparent colour": saved(picture().quantize(16), "PNG", transparency=3),
    "PNG, palette with alpha": saved(picture().quantize(16), "PNG", transparency=bytes(range(0, 160, 10))),
    "PNG, alpha": saved(TRANSPARENT, "PNG"),
    "PNG, grey and alpha": saved(GREY_AND_ALPHA, "PNG"),
    "PNG, grey with a transparent value": saved(picture(mode="L"), "PNG", transparency=90),
    "PNG, colour with a transparent value": saved(picture(), "PNG", transparency=tuple(COLOURS[3, 3].tolist())),
    "PNG, 1 bit": saved(picture(mode="1"), "PNG"),
    "PNG, 2 bits grey": png_of(HEIGHT, WIDTH, 2, 0, PACKED_GREYS),
    "PNG, 16 bits colour": png_of(HEIGHT, WIDTH, 16, 2, rows_of(DEEP.astype(">u2"))),
    "JPEG, CMYK": saved(picture(mode="CMYK"), "JPEG"),
    "TIFF": saved(picture(), "TIFF"),
    "TIFF, grey, deflated": saved(picture(mode="L"), "TIFF", compression="tiff_deflate"),
    "TIFF, CMYK": saved(picture(mode="CMYK"), "TIFF"),
    "TIFF, alpha": saved(TRANSPARENT, "TIFF"),
    "WebP": saved(picture(), "WEBP"),
    "WebP, lossless with alpha": saved(TRANSPARENT, "WEBP", lossless=True, exact=True),
    "BMP": saved(picture(), "BMP"),
    "BMP, palette": saved(picture().quantize(16), "BMP"),
    "GIF": saved(picture(), "GIF"),
    "GIF, transparent": saved(picture().quantize(16), "GIF", transparency=3),
    "PPM": saved(picture(), "PPM"),
    "PGM": saved(picture(mode="L"), "PPM"),
}


def assert_decodes_alike_everywhere(tf, found, expected):
    """Three channels or as many as are stored, TensorFlow sees these pixels; nothing transparent is in the file."""
    assert found.format == "png"
    assert found.fixes == ("IMAGE_CONVERTED",)
    assert found.sha256 == hashlib.sha256(found.data).hexdigest()
    assert (found.height, found.width) == expected.shape[:2]
    assert "transparency" not in opened(found.data).info
    np.testing.assert_array_equal(pixels_by_tensorflow(tf, found.data), expected)
    stored = tf.io.decode_image(found.data, expand_animations=False).numpy()
    assert stored.shape[2] in (1, 3)
    np.testing.assert_array_equal(np.broadcast_to(stored, expected.shape), expected)


@pytest.mark.parametrize("data", CONVERTED.values(), ids=CONVERTED)
def test_other_pictures_are_converted_to_the_pixels_that_pillow_shows(tf, data):
    assert_decodes_alike_everywhere(tf, check(data), np.asarray(opened(data).convert("RGB")))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_of_16_bits_the_upper_eight_are_kept(tf, image_format):
    values = DEEP[:, :, 0].astype(np.uint16)
    data = saved(Image.fromarray(values), image_format)
    expected = np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    assert_decodes_alike_everywhere(tf, check(data), expected)
    if image_format == "PNG":
        np.testing.assert_array_equal(tf.io.decode_png(data, channels=3).numpy(), expected)


def test_of_16_bit_colours_the_upper_eight_are_kept(tf):
    data = CONVERTED["PNG, 16 bits colour"]
    np.testing.assert_array_equal(pixels_by_tensorflow(tf, check(data).data), DEEP >> 8)


# ------------------------------------------------------------------------------------------------------ header only


@pytest.mark.parametrize("data", [*PASSED_ON.values(), *CONVERTED.values()], ids=[*PASSED_ON, *CONVERTED])
def test_of_a_sound_file_the_header_says_all(data):
    assert check(data, how="header") == check(data)


@pytest.mark.parametrize("data", [*NO_IMAGES.values(), *UNSUPPORTED.values()], ids=[*NO_IMAGES, *UNSUPPORTED])
def test_the_header_tells_what_is_no_image_or_unsupported_but_for_pngs_with_odd_pixels(data):
    found, fully = check(data, how="header"), check(data)
    if isinstance(found, CheckedImage):
        assert data.startswith(b"\x89PNG")
        assert code_of(fully) == "IMAGE_CORRUPT"
    else:
        assert found.code == fully.code


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_the_header_tells_sizes(data):
    assert code_of(check(data, how="header", max_pixels=HEIGHT * WIDTH - 1)) == "PIXEL_LIMIT"
    assert code_of(check(data, HEIGHT, WIDTH + 1, how="header")) == "DIM_MISMATCH"
    assert code_of(check(data[: len(data) // 2], how="header")) == "IMAGE_CORRUPT"


def test_by_the_header_only_what_is_converted_or_turned_is_decoded(monkeypatch):
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self.format) or load(self))
    for name in ("JPEG", "progressive JPEG", "PNG", "grey PNG"):
        assert check(WHOLE[name], how="header").data is WHOLE[name]
    assert decoded == []
    assert check(WHOLE["BMP"], how="header").fixes == ("IMAGE_CONVERTED",)
    assert check(with_orientation(3, "JPEG"), how="header").fixes == ("IMAGE_TURNED",)
    assert set(decoded) == {"BMP", "JPEG"}


def test_damage_within_the_pixels_is_what_the_header_does_not_tell():
    """The risk that the option's help speaks of; a converted file is decoded, so there it is found."""
    damaged = corrupt_jpeg(200, 301)
    assert code_of(check(damaged, 200, 301)) == "IMAGE_CORRUPT"
    assert check(damaged, 200, 301, how="header").data is damaged
    few_rows = NO_IMAGES["PNG, fewer rows than it says"]
    assert check(few_rows, how="header").data is few_rows
    few_rows_of_palette = png_of(HEIGHT, WIDTH, 8, 3, [bytes(WIDTH)] * (HEIGHT - 1), (b"PLTE", bytes(9)))
    assert code_of(check(few_rows_of_palette, how="header")) == "IMAGE_CORRUPT"


# ------------------------------------------------------------------------------------------------------- odd images

ODD_IMAGES = REAL_DATA / "odd_images_synthetic"
ODD_HEIGHT, ODD_WIDTH = 64, 96
AS_IS, CONVERTED_TO_PNG, LEFT = (), ("IMAGE_CONVERTED",), ("IMAGE_NOT_TURNED",)
ODD = {
    "1x1.jpg": AS_IS,
    "anim.gif": "IMAGE_UNSUPPORTED",
    "anim.webp": "IMAGE_UNSUPPORTED",
    "apng.png": "IMAGE_UNSUPPORTED",
    "arith.jpg": AS_IS,
    "arithprog.jpg": AS_IS,
    "bomb_100MP.png": "PIXEL_LIMIT",
    "bomb_1bit_60000x60000.png": "PIXEL_LIMIT",
    "cmyk.jpg": CONVERTED_TO_PNG,
    "corrupt_mid.jpg": "IMAGE_CORRUPT",
    "empty.jpg": "IMAGE_CORRUPT",
    "exif6.jpg": LEFT,
    "exif6.png": LEFT,
    "exif6.webp": LEFT + CONVERTED_TO_PNG,
    "float.tiff": "IMAGE_UNSUPPORTED",
    "garbage_tail.jpg": AS_IS,
    "gray.jpg": AS_IS,
    "hdr_only_65500.jpg": "PIXEL_LIMIT",
    "img.avif": "IMAGE_UNSUPPORTED",
    "img.bmp": CONVERTED_TO_PNG,
    "img.gif": CONVERTED_TO_PNG,
    "img.heic": "IMAGE_UNSUPPORTED",
    "img.jp2": "IMAGE_UNSUPPORTED",
    "img.ppm": CONVERTED_TO_PNG,
    "img.tiff": CONVERTED_TO_PNG,
    "img.webp": CONVERTED_TO_PNG,
    "img_lossless.webp": CONVERTED_TO_PNG,
    "jpeg12.jpg": "IMAGE_UNSUPPORTED",
    "jpegls.jls": "IMAGE_UNSUPPORTED",
    "jpegxl.jxl": "IMAGE_UNSUPPORTED",
    "lossless8.jpg": "IMAGE_UNSUPPORTED",
    "lossless_sof3.jpg": "IMAGE_UNSUPPORTED",
    "mpo.jpg": AS_IS,
    "png_16gray.png": CONVERTED_TO_PNG,
    "png_16rgb.png": CONVERTED_TO_PNG,
    "png_1bit.png": CONVERTED_TO_PNG,
    "png_as.jpg": AS_IS,
    "png_badcrc.png": "IMAGE_CORRUPT",
    "png_gray.png": AS_IS,
    "png_la.png": CONVERTED_TO_PNG,
    "png_palette.png": CONVERTED_TO_PNG,
    "png_palette_trns.png": CONVERTED_TO_PNG,
    "png_rgb.png": AS_IS,
    "png_rgba.png": CONVERTED_TO_PNG,
    "png_textbomb.png": "IMAGE_CORRUPT",
    "png_trunc.png": "IMAGE_CORRUPT",
    "restart.jpg": AS_IS,
    "rgb_baseline.jpg": AS_IS,
    "rgb_colorspace.jpg": AS_IS,
    "rgb_progressive.jpg": AS_IS,
    "text.jpg": "IMAGE_CORRUPT",
    "trunc_50pct.jpg": "IMAGE_CORRUPT",
    "trunc_hdr.jpg": "IMAGE_CORRUPT",
    "trunc_last2.jpg": "IMAGE_CORRUPT",
    "ycck.jpg": CONVERTED_TO_PNG,
    "zero_dim.png": "IMAGE_CORRUPT",
}
"""The reason code, or what was done to the file, for annotations of the stored size."""
ODD_SIZES = {"1x1.jpg": (1, 1)}  # of what gets as far as having its size looked at


def test_every_odd_image_has_an_outcome(real_data):
    assert sorted(path.name for path in ODD_IMAGES.iterdir()) == sorted(ODD)
    assert len(ODD) == 56


@pytest.mark.parametrize("how", ["full", "header"])
@pytest.mark.parametrize("name", ODD)
def test_odd_images_have_the_outcome_that_is_stated(real_data, monkeypatch, name, how):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    data = (ODD_IMAGES / name).read_bytes()
    found = check_image(data, *ODD_SIZES.get(name, (ODD_HEIGHT, ODD_WIDTH)), 50_000_000, how)
    expected = ODD[name]
    if how == "header" and name == "corrupt_mid.jpg":
        expected = AS_IS
    assert (found.code if isinstance(found, Problem) else found.fixes) == expected
    if expected in (AS_IS, LEFT):
        assert found.data is data


def shown_by_pillow(data):
    """What the picture shows, RGB, as Pillow decodes the original file; of 16 bits the upper eight."""
    with opened(data) as image:
        if image.mode.startswith("I;16"):
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
        return np.asarray(image.convert("RGB"))


def shown_by_tensorflow(tf, checked):
    """As TensorFlow decodes what is written; of JPEG with the transform that rounds as the standard says, which Pillow's does."""
    if checked.format == "jpeg":
        return tf.io.decode_jpeg(checked.data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    return tf.io.decode_png(checked.data, channels=3).numpy()


@pytest.mark.parametrize("name", [name for name, expected in ODD.items() if not isinstance(expected, str)])
def test_odd_images_that_are_written_decode_in_tensorflow_to_what_pillow_shows(real_data, tf, name):
    data = (ODD_IMAGES / name).read_bytes()
    height, width = ODD_SIZES.get(name, (ODD_HEIGHT, ODD_WIDTH))
    shown = shown_by_pillow(data)
    assert shown.shape == (height, width, 3)
    checked = check_image(data, height, width, 50_000_000)
    np.testing.assert_array_equal(shown_by_tensorflow(tf, checked), shown)
    assert tf.io.decode_image(checked.data, channels=3, expand_animations=False).shape == (height, width, 3)
    if name.startswith("exif6"):
        turned = check_image(data, width, height, 50_000_000)
        assert turned.fixes[0] == "IMAGE_TURNED"
        np.testing.assert_array_equal(shown_by_tensorflow(tf, turned), TURNS[6](shown))
