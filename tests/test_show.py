"""`maskbeam show`: which images, and that their pictures reach a terminal, a PNG or a page whole."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import Output
from pictures import picture, saved
from PIL import Image

from beam_pipeline import cli, inline_images
from beam_pipeline.inline_images import encoded, way_of
from beam_pipeline.options import RunOptions
from beam_pipeline.pictures import draw
from beam_pipeline.reference import CHECKOUT
from beam_pipeline.run import run
from beam_pipeline.show import Choices, find, pictures_of
from transforms.read_records import iter_images, shards_of
from transforms.records import InputError


@pytest.fixture(scope="module")
def records(demo_output):
    return str(demo_output.folder)


def shown(output, **choices):
    """The images that are chosen."""
    given = Choices(**{"size": 40, **choices})
    shards = shards_of(output, [given.split] if given.split else None)
    return [one.image for one in pictures_of(output, shards, find(output, shards, given), given)]


def ids(output, **choices):
    return [image.image_id for image in shown(output, **choices)]


# ---------------------------------------------------------------------------------------------------- which images


def test_images_are_spread_over_the_shards(records):
    shards = shards_of(records)
    assert len(shards) == 4
    of_split = {}
    for image in iter_images(records):
        of_split.setdefault(image.split, []).append(image.image_id)
    assert [place.shard for place in find(records, shards, Choices(limit=4))] == [0, 1, 2, 3]
    assert sorted(Counter(place.shard for place in find(records, shards, Choices(limit=6))).values()) == [1, 1, 2, 2]
    assert {image.split for image in shown(records, limit=4)} == {"train", "val"}
    assert ids(records, limit=6) == ids(records, limit=6)
    assert set(ids(records, limit=4)) < set(ids(records, limit=6))
    assert sorted(ids(records, limit=100)) == sorted(of_split["train"] + of_split["val"])
    assert len(ids(records)) == 12
    assert sorted(ids(records, split="val", limit=100)) == sorted(of_split["val"])


@pytest.mark.parametrize("names", [("boat",), ("cloud", "bird"), ("bird",)])
def test_a_category_finds_all_images_that_have_it(demo_data, records, names):
    annotated = json.loads(demo_data.annotations.read_text())
    numbers = {category["id"] for category in annotated["categories"] if category["name"] in names}
    with open(f"{records}/rejects.jsonl") as lines:
        rejected = {json.loads(line)["annotation_id"] for line in lines}
    having = {one["image_id"] for one in annotated["annotations"] if one["category_id"] in numbers and one["id"] not in rejected}
    assert set(ids(records, categories=names, limit=100)) == having
    assert len(ids(records, categories=names, limit=3)) == min(3, len(having))


def test_of_a_category_only_its_instances_are_coloured(records):
    shards = shards_of(records)
    places = find(records, shards, Choices(image_ids=(2,)))
    (whole,) = pictures_of(records, shards, places, Choices(size=640))
    (birds,) = pictures_of(records, shards, places, Choices(size=640, categories=("bird",)))
    assert birds.picture.tobytes() == draw(whole.image, 640, {"bird"}).tobytes()
    assert birds.picture.tobytes() != whole.picture.tobytes()
    assert birds.counts == whole.counts


def test_images_by_their_ids(records):
    assert sorted(ids(records, image_ids=(7, 2, 7))) == [2, 7]
    (image,) = shown(records, image_ids=(7,))
    assert image.file_name == "morning/beach-007.jpg"
    assert len(ids(records, image_ids=(7, 2), limit=1)) == 1
    assert ids(records, image_ids=(7,), split=image.split) == [7]


def test_the_tiles_of_an_image_by_its_id_and_one_by_its_own(run_demo):
    output = str(run_demo(tile="300x200", num_shards="3", splits="train=0.7,val=0.3").folder)
    tiles = [image for image in iter_images(output) if image.file_name.startswith("morning/beach-007.jpg@")]
    assert len(tiles) > 6
    assert ids(output, image_ids=(7,)) == [tile.image_id for tile in tiles]
    assert ids(output, image_ids=(tiles[3].image_id,)) == [tiles[3].image_id]


def test_a_damaged_shard_is_said(run_demo, tmp_path):
    output = run_demo(num_shards="1")
    shard = next(output.folder.glob("*.tfrecord"))
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputError, match=r"train-00000-of-00001\.tfrecord"):
        shown(str(output.folder))


def status(arguments):
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--split", "trian"], "no split 'trian': it has train, val"),
        (["--category", "ballon"], "no category 'ballon', did you mean 'balloon'?"),
        (["--category", "boat", "xyz"], "no category 'xyz': it has balloon, kite, boat, cloud, bird"),
        (["--category", "bird", "--split", "val"], "no image of the split 'val' of "),
        (["--image_id", "7", "99"], "has no image 99"),
        (["--image_id", "11"], "has no image 11: it was rejected, IMAGE_CORRUPT: the file can't be decoded"),
        (["--image_id", "seven"], "argument --image_id: invalid int value: 'seven'"),
        (["--output", "a.gif"], "--output a.gif: expected a name that ends in .png or .html"),
        (["--output", "nowhere/a.png"], "nowhere/a.png can't be written"),
        (["--limit", "0"], "--limit: expected a whole number above 0, found '0'"),
        (["--inline", "ascii"], "--inline: invalid choice: 'ascii'"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(records, more, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert status(["show", records, *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_nothing_there_and_nothing_in_it(tmp_path, capsys):
    assert status(["show", str(tmp_path)]) == 2
    assert "is no data set of maskbeam's: there is no manifest.json in it" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text('{"shards": [{"split": "train", "file": "a", "records": 0}]}')
    assert status(["show", str(tmp_path)]) == 2
    assert "has no images" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ files


def test_without_a_terminal_a_png_is_written_here_and_it_says_where(records, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm-kitty")  # what it prints goes elsewhere
    assert status(["show", f"{records}/", "--limit", "5", "--size", "200", "--columns", "2"]) == 0
    name = f"{os.path.basename(records)}-pictures.png"
    assert capsys.readouterr().out == f"5 of 29 images: {name}\n"
    with Image.open(tmp_path / name) as sheet:
        assert sheet.width == 12 + 2 * (200 + 12)
        chosen = shown(records, limit=5)
        first = draw(chosen[0], 200)
        assert sheet.crop((12, 12, 12 + first.width, 12 + first.height)).tobytes() == first.tobytes()
        second = draw(chosen[1], 200)
        assert sheet.crop((224, 12, 224 + second.width, 12 + second.height)).tobytes() == second.tobytes()
    before = (tmp_path / name).read_bytes()
    assert status(["show", records, "--limit", "5", "--size", "200", "--columns", "2"]) == 0
    assert (tmp_path / name).read_bytes() == before


class Page(HTMLParser):
    """What is in a page: its tags, their attributes, and its text by the tag around it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.append((self.open[-1], data.strip()))

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def odd_output(tmp_path_factory):
    """One image whose names are not for a page, nor for Pillow's font."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "images").mkdir()
    (folder / "images" / "<i>été & 'so'.png").write_bytes(saved(picture(), "PNG"))
    names = {1: "自転車", 2: '<script>"x"</script>', 3: "vélo"}
    boxes = ([2, 3, 10, 12], [20, 3, 10, 12], [4, 10, 9, 9])
    annotations = [
        {"id": number, "image_id": 7, "category_id": number, "bbox": box, "iscrowd": 0} for number, box in enumerate(boxes, 1)
    ]
    whole = {
        "images": [{"id": 7, "file_name": "<i>été & 'so'.png", "width": 40, "height": 24}],
        "categories": [{"id": number, "name": name} for number, name in names.items()],
        "annotations": annotations,
    }
    (folder / "a.json").write_text(json.dumps(whole))
    output = folder / "records"
    manifest = run(RunOptions(annotations=str(folder / "a.json"), images=str(folder / "images"), output=str(output)), ()).manifest
    return Output(output, manifest)


def test_a_page_has_all_in_itself(records, tmp_path, capsys):
    file = tmp_path / "page.html"
    assert status(["show", records, "--limit", "5", "--size", "200", "--output", str(file)]) == 0
    assert capsys.readouterr().out == f"5 of 29 images: {file}\n"
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"url\(|@import|https?:", text)
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href", "srcset")]
    assert all(value.startswith("data:") for value in links)
    assert not page.all("script")
    chosen = shown(records, limit=5)
    assert [value for tag, value in page.text if tag == "b"] == [image.file_name for image in chosen]
    for image, attributes in zip(chosen, page.all("img"), strict=True):
        with Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2]))) as found:
            expected = draw(image, 200)
            assert found.size == expected.size == (int(attributes["width"]), int(attributes["height"]))
            assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).mean() < 5
        counts = Counter(one.name for one in image.instances)
        assert attributes["alt"].startswith(f"{image.file_name}: ")
        for name, count in counts.items():
            assert f"{name} {count}" in attributes["alt"]
        assert f"id {image.image_id}, {image.split}, {len(image.instances)} instances" in text
    assert "minmax(min(100%, 340px), 1fr)" in text
    assert status(["show", records, "--columns", "2", "--size", "40", "--output", str(file)]) == 0
    assert "repeat(2, minmax(0, 1fr))" in file.read_text(encoding="utf-8")


def test_names_are_text_and_no_markup(odd_output, tmp_path, capsys):
    file = tmp_path / "page.html"
    assert status(["show", str(odd_output.folder), "--output", str(file)]) == 0
    page = Page(file.read_text(encoding="utf-8"))
    assert not page.all("script")
    texts = [value for _, value in page.text]
    assert texts.count("<i>été & 'so'.png") == 1
    assert {'<script>"x"</script> 1', "自転車 (#1) 1", "vélo 1"} <= set(texts)
    assert page.all("img")[0]["alt"] == """<i>été & 'so'.png: 自転車 1, <script>"x"</script> 1, vélo 1"""
    assert "1 of 1 image:" in capsys.readouterr().out


def test_what_the_font_lacks_is_said_beside_a_png(odd_output, tmp_path, capsys):
    assert status(["show", str(odd_output.folder), "--output", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["#1 is 自転車"]


def test_the_documentation_has_every_option():
    commands = next(action for action in cli.make_parser()._actions if action.dest == "command").choices
    options = {name for action in commands["show"]._actions for name in action.option_strings} - {"-h", "--help"}
    rows = re.findall(r"^\| (`--.*?) \|", (CHECKOUT / "docs/show.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"--\w+", " ".join(rows))) == options


# --------------------------------------------------------------------------------------------------------- terminals


KITTY, ITERM, SIXEL = inline_images.KITTY, inline_images.ITERM, inline_images.SIXEL


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, KITTY),
        ({"TERM": "xterm-ghostty"}, KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, ITERM),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, ITERM),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, ITERM),
        ({"TERM": "foot"}, SIXEL),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "screen", "TERM_PROGRAM": "iTerm.app"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux-0/default,1,0"}, None),
        ({}, None),
    ],
)
def test_the_way_of_a_terminal(environment, way):
    assert way_of(environment) == way


def kitty_pngs(text):
    """The PNGs in the text, as a terminal takes them up (https://sw.kovidgoyal.net/kitty/graphics-protocol/)."""
    pngs, data = [], ""
    for control, chunk in re.findall(r"\x1b_G([^;\x1b]*);([^\x1b]*)\x1b\\", text):
        keys = dict(pair.split("=") for pair in control.split(","))
        assert len(chunk) <= 4096
        if not data:
            assert (keys["a"], keys["f"]) == ("T", "100")
        data += chunk
        if keys["m"] == "0":
            pngs.append(base64.b64decode(data, validate=True))
            data = ""
        else:
            assert len(chunk) % 4 == 0
    assert not data
    return pngs


def iterm_pngs(text):
    found = re.findall(r"\x1b\]1337;File=([^:]*):([^\a]*)\a", text)
    pngs = [base64.b64decode(data, validate=True) for _, data in found]
    for (keys, _), png in zip(found, pngs, strict=True):
        assert f"size={len(png)}" in keys.split(";")
        assert "inline=1" in keys.split(";")
    return pngs


def sixel_pixels(text):
    """The pixels that a terminal draws: -1 where it draws none."""
    head, body = re.fullmatch(r'\x1bPq"1;1;(\d+;\d+)(.*)\x1b\\', text, re.DOTALL).groups()
    width, height = map(int, head.split(";"))
    pixels, palette = np.full((-(-height // 6) * 6, width, 3), -1.0), {}
    top = left = 0
    for token in re.findall(r"#\d+(?:;[\d;]+)?|!\d+[?-~]|[?-~]|\$|-", body):
        if token.startswith("#"):
            index, *colour = map(int, token[1:].split(";"))
            if colour:
                assert colour[0] == 2
                palette[index] = [value * 2.55 for value in colour[1:]]
            now = palette[index]
        elif token == "$":
            left = 0
        elif token == "-":
            top, left = top + 6, 0
        else:
            times, bits = int(token[1:-1] or 1) if token.startswith("!") else 1, ord(token[-1]) - 63
            for row in range(6):
                if bits >> row & 1:
                    pixels[top + row, left : left + times] = now
            left += times
    return pixels[:height], pixels[height:]


@pytest.mark.parametrize("size", [(3, 2), (101, 64), (40, 200)])
def test_a_terminal_gets_the_picture_whole(size):
    whole = picture(*size)
    for way, read in ((KITTY, kitty_pngs), (ITERM, iterm_pngs)):
        text = encoded(whole, way)
        (png,) = read(text)
        with Image.open(io.BytesIO(png)) as found:
            assert found.tobytes() == whole.tobytes()
        assert "\n" not in text
    pixels, beyond = sixel_pixels(encoded(whole, SIXEL))
    expected = np.asarray(whole.quantize(256).convert("RGB"))
    assert np.abs(pixels - expected).max() <= 1.3  # of each colour it gives hundredths
    assert (beyond == -1).all()


@pytest.fixture
def terminal(monkeypatch):
    """Standard output is a terminal of 700 pixels, which says that it is kitty."""
    for name in ("TMUX", "TERM_PROGRAM", "LC_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("beam_pipeline.show.terminal_width", lambda: 700)


def test_on_a_terminal_pictures_are_shown_a_row_at_a_time(records, tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert status(["show", records, "--limit", "5", "--size", "300"]) == 0
    out = capsys.readouterr().out
    rows = [Image.open(io.BytesIO(png)) for png in kitty_pngs(out)]
    assert [row.width for row in rows] == [12 + 2 * 312, 12 + 2 * 312, 12 + 312]
    first = draw(shown(records, limit=5)[0], 300)
    assert rows[0].crop((12, 12, 12 + first.width, 12 + first.height)).tobytes() == first.tobytes()
    assert re.sub(r"\x1b_[^\x1b]*\x1b\\", "", out).split() == ["5", "of", "29", "images"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "count", "name"),
    [
        (["--inline", "none"], 0, "{}-pictures.png"),
        (["--output", "a.png"], 0, "a.png"),
        (["--output", "a.png", "--inline", "kitty"], 1, "a.png"),
    ],
)
def test_a_terminal_or_a_file(records, more, count, name, tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert status(["show", records, "--limit", "2", "--size", "60", *more]) == 0
    assert len(kitty_pngs(capsys.readouterr().out)) == count
    assert [path.name for path in tmp_path.iterdir()] == [name.format(os.path.basename(records))]


def test_a_way_that_is_asked_for_needs_no_terminal(records, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert status(["show", records, "--limit", "1", "--size", "60", "--inline", "iterm"]) == 0
    assert len(iterm_pngs(capsys.readouterr().out)) == 1
    assert not list(tmp_path.iterdir())


def test_on_a_real_terminal(records, tmp_path):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 50, 80, 700, 1300))  # rows, columns, pixels across and down
    command = [sys.executable, "-m", "beam_pipeline.cli", "show", records, "--limit", "3", "--size", "300"]
    environment = {name: value for name, value in os.environ.items() if name not in ("TMUX", "TERM_PROGRAM", "LC_TERMINAL")}
    environment |= {"TERM": "xterm-kitty", "PYTHONPATH": os.getcwd()}
    out = b""
    with subprocess.Popen(command, stdout=slave, stderr=subprocess.PIPE, env=environment, cwd=tmp_path) as process:
        os.close(slave)
        try:
            while piece := os.read(master, 65536):
                out += piece
        except OSError:  # the other side is closed
            pass
        _, error = process.communicate(timeout=60)
    os.close(master)
    assert (process.returncode, error) == (0, b"")
    rows = [Image.open(io.BytesIO(png)) for png in kitty_pngs(out.decode())]
    assert [row.width for row in rows] == [12 + 2 * 312, 12 + 312]
    assert b"3 of 29 images" in out
    assert not list(tmp_path.iterdir())
