"""The options: what help shows, what mistakes get as an answer, and that neither waits for Beam."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from typing import Any, get_args

import pytest

from beam_pipeline.cli import main
from beam_pipeline.options import GROUPS, Parser, RunOptions, about, add_options, options_from, parse_splits
from beam_pipeline.reference import options_page
from transforms.encode import MaskEncoding
from transforms.images import ImageCheck
from transforms.rasterize import BoxSource

REQUIRED = ["--annotations", "a.json", "--images", "photos", "--output", "records"]
FIELDS = {one.name: one for one in fields(RunOptions)}


def parse(*arguments: str) -> RunOptions:
    parser = Parser(prog="maskbeam run", allow_abbrev=False)
    add_options(parser)
    return options_from(parser.parse_args([*REQUIRED, *arguments]))


def help_groups(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """The help of `maskbeam run`: heading → option → its text, white space made single."""
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as caught:
        main(["run", "--help"])
    assert caught.value.code == 0
    parts = re.split(r"^(\S[^\n]*):\n", capsys.readouterr().out, flags=re.MULTILINE)
    entries = {
        heading: re.split(r"^  --(\w+)", text, flags=re.MULTILINE) for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return {
        heading: {name: " ".join(text.split()) for name, text in zip(found[1::2], found[2::2], strict=True)}
        for heading, found in entries.items()
    }


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


# ---------------------------------------------------------------------------------------------------------------- help


def test_every_option_is_in_its_group_in_the_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    groups = help_groups(capsys, monkeypatch)
    assert set(GROUPS) <= set(groups)
    found = {group: list(groups[group]) for group in GROUPS}
    assert found == {group: [name for name, one in FIELDS.items() if about(one).group == group] for group in GROUPS}
    assert sum(map(len, found.values())) == len(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_help_and_default_of_an_option_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    groups = help_groups(capsys, monkeypatch)
    said, default = about(FIELDS[name]), FIELDS[name].default
    value = "{" + ",".join(said.choices) + "}" if said.choices else said.metavar or ""
    value = "[true|false]" if default is False else value
    shown = "" if default in (MISSING, None, False) else f" (default: {default})"
    assert groups[said.group][name] == f"{value} {said.help}{shown}".strip()


@pytest.mark.parametrize("command", ["verify", "demo"])
def test_the_other_commands_have_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: maskbeam {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["run", "--help"], ["--help"], ["--version"], ["run"], ["run", *REQUIRED, "--num_shards", "x"], []],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_help_and_mistakes_import_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys; from beam_pipeline.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('heavy:', *sorted({'apache_beam', 'tensorflow', 'numpy', 'PIL', 'msgspec'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_help_can_be_shown_on_a_terminal_without_unicode() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "beam_pipeline.cli", "run", "--help"]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def test_the_table_of_the_documentation_has_every_option_once_in_its_group() -> None:
    parts = re.split(r"^## (.*)\n", options_page(), flags=re.MULTILINE)
    tables = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(tables) == list(GROUPS)
    for group, table in tables.items():
        header, rule, *rows = table.strip().splitlines()
        assert (header, rule) == ("| option | default | meaning |", "|---|---|---|")
        cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
        members = [(name, one) for name, one in FIELDS.items() if about(one).group == group]
        assert [re.match(r"`--(\w+)", first)[1] for first, _, _ in cells] == [name for name, _ in members]
        for (_, default, meaning), (_, one) in zip(cells, members, strict=True):
            assert meaning == about(one).help
            said = {MISSING: "required", False: "off", None: "–"}
            assert default == (said[one.default] if one.default in said else str(one.default))


# --------------------------------------------------------------------------------------------------------------- class


def test_every_option_is_documented_and_of_a_known_group() -> None:
    for name, one in FIELDS.items():
        said = about(one)
        assert said.group in GROUPS
        assert re.fullmatch(r"[a-z_]+", name)
        assert said.help
        assert not said.help.endswith(".")
        assert said.choices is None or one.default in (None, *said.choices)


def test_choices_are_those_of_the_types() -> None:
    assert about(FIELDS["mask_encoding"]).choices == get_args(MaskEncoding)
    assert about(FIELDS["boxes"]).choices == get_args(BoxSource)
    assert about(FIELDS["check_images"]).choices == get_args(ImageCheck)


def test_defaults_of_the_parser_and_of_the_class_are_the_same() -> None:
    assert parse() == RunOptions(annotations="a.json", images="photos", output="records")


def test_defaults_pass_their_own_checks() -> None:
    for one in FIELDS.values():
        if isinstance(one.default, str | int | float) and one.default is not False:
            assert about(one).parse(str(one.default)) == one.default


def test_all_options_can_be_given() -> None:
    given = {
        "format": "coco",
        "masks": "painted",
        "class_attribute": "kind",
        "faces_only": True,
        "check_images": "header",
        "overwrite": True,
        "resume": True,
        "mask_encoding": "dense",
        "boxes": "mask",
        "category_ids": "contiguous",
        "max_side": 1000,
        "tile": "512x256",
        "tile_overlap": 32,
        "tile_min_share": 0.25,
        "splits": "train=0.9,val=0.1",
        "split_by": r"scene\d+",
        "num_shards": "16",
        "categories": "classes.yaml",
        "min_area": 25.0,
        "drop_crowds": True,
        "drop_annotations_without_mask": True,
        "drop_images_without_annotations": True,
        "max_record_mb": 12.5,
        "max_megapixels": 1.0,
        "max_points": 500,
        "max_instances": 70,
        "max_reject_fraction": 0.5,
        "trainer_config": "mask_rcnn_inception_v2_coco",
        "workers": "3",
        "profile": True,
        "verbose": True,
    }
    required = {"annotations": "a.json", "images": "photos", "output": "records"}
    assert set(given) | set(required) == set(FIELDS)
    arguments = [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]
    assert dataclasses.asdict(parse(*arguments)) == required | given


def test_options_cannot_be_changed_or_given_by_position() -> None:
    options = parse()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.output = "elsewhere"  # type: ignore[misc]
    with pytest.raises(TypeError):
        RunOptions("a.json", "photos", "records")  # type: ignore[misc]


def test_the_manifest_has_what_decides_over_the_data_set() -> None:
    left_out = {"output", "overwrite", "resume", "workers", "profile", "verbose"}
    assert set(parse("--overwrite").for_manifest()) == set(FIELDS) - left_out
    elsewhere = dataclasses.replace(parse(), output="b", overwrite=True, resume=True, workers="7", profile=True, verbose=True)
    assert elsewhere.for_manifest() == parse().for_manifest()


# -------------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train", [("train", 1.0)]),
        ("train=1", [("train", 1.0)]),
        ("train=0.9,val=0.1", [("train", 0.9), ("val", 0.1)]),
        ("a=.5, b=.25 ,C_3=.25", [("a", 0.5), ("b", 0.25), ("C_3", 0.25)]),
        ("b=0.5,a=5e-1", [("b", 0.5), ("a", 0.5)]),
        ("a=0.3333333,b=0.3333333,c=0.3333334", [("a", 0.3333333), ("b", 0.3333333), ("c", 0.3333334)]),
        (",".join(f"s{number}=0.1" for number in range(10)), [(f"s{number}", 0.1) for number in range(10)]),
    ],
)
def test_splits_are_parsed(text: str, expected: list[tuple[str, float]]) -> None:
    assert parse_splits(text) == tuple(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=1", "expected NAME=SHARE"),
        ("0.9", "expected NAME=SHARE"),
        ("train 0.9", "expected NAME=SHARE"),
        ("train=0.9,", "expected NAME=SHARE"),
        (",train=1", "expected NAME=SHARE"),
        ("tra-in=1", "found 'tra-in=1'"),
        ("../x=1", "found '../x=1'"),
        ("train =1", "found 'train =1'"),
        ("ünï=1", "found 'ünï=1'"),
        ("train=x", "expected a number as the share of 'train', found 'x'"),
        ("train=0.9=0.1", "expected a number as the share of 'train', found '0.9=0.1'"),
        ("train=90%", "expected a number as the share of 'train', found '90%'"),
        ("train=0.5,train=0.5", "a split is named twice"),
        ("train,val", "add up to 1"),
        ("train=0.9", "add up to 1, found 'train=0.9'"),
        ("train=0.9,val=0.2", "add up to 1"),
        ("train=1,val=0", "above 0"),
        ("train=1.5,val=-0.5", "above 0"),
        ("train=nan", "above 0"),
        ("train=inf", "add up to 1"),
        ("train=80,val=20", "add up to 1"),
    ],
)
def test_splits_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_splits(text)
    error = error_of(capsys, "run", *REQUIRED, f"--splits={text}")
    assert error.startswith("maskbeam run: argument --splits: ")
    assert message in error


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_shards", "0"], "argument --num_shards: expected auto or a number from 1 to 99999, found '0'"),
        (["--num_shards", "100000"], "argument --num_shards: expected auto or a number from 1 to 99999, found '100000'"),
        (["--num_shards", "-1"], "argument --num_shards: expected"),
        (["--num_shards", "1.5"], "argument --num_shards: expected"),
        (["--num_shards", "\u0663"], "argument --num_shards: expected"),
        (["--num_shards", "3\n"], "argument --num_shards: expected"),
        (["--num_shards"], "argument --num_shards: expected one argument"),
        (["--max_record_mb", "0"], "argument --max_record_mb: expected a number above 0, found '0'"),
        (["--max_record_mb", "2000.1"], "argument --max_record_mb: expected at most 2000, found '2000.1'"),
        (["--max_record_mb", "nan"], "argument --max_record_mb: expected a number above 0, found 'nan'"),
        (["--max_record_mb", "inf"], "argument --max_record_mb: expected a number above 0"),
        (["--max_record_mb", "5 MB"], "argument --max_record_mb: expected a number above 0, found '5 MB'"),
        (["--max_megapixels=-5"], "argument --max_megapixels: expected a number above 0, found '-5'"),
        (["--split_by", "(a"], "argument --split_by: expected a regular expression, found '(a': missing )"),
        (["--split_by", "two\nlines("], "argument --split_by: expected a regular expression, found 'two\\nlines('"),
        (["--mask_encoding", "jpeg"], "argument --mask_encoding: expected one of png, dense, png1, found 'jpeg'"),
        (["--tile", "30"], "argument --tile: expected WIDTHxHEIGHT in pixels, as in 1024x512, found '30'"),
        (["--tile", "30x0"], "argument --tile: expected WIDTHxHEIGHT in pixels, as in 1024x512, found '30x0'"),
        (["--tile_overlap=-1"], "argument --tile_overlap: expected a number of pixels, found '-1'"),
        (["--format", "doc"], "argument --format: expected one of coco, coco_panoptic,"),
        (["--overwrite=yes"], "argument --overwrite: expected true or false, found 'yes'"),
        (["--overwrite=1"], "argument --overwrite: expected true or false, found '1'"),
        (["--annotations="], "argument --annotations: expected a path, found nothing"),
        (["--output", ""], "argument --output: expected a path, found nothing"),
    ],
)
def test_a_mistake_is_answered_with_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    error = error_of(capsys, "run", *REQUIRED, *arguments)
    assert error.startswith(f"maskbeam run: {message}")
    assert error.endswith("(see maskbeam run --help)\n")


@pytest.mark.parametrize("missing", ["--annotations", "--images", "--output"])
def test_a_required_option_that_is_missing_is_named(capsys: pytest.CaptureFixture[str], missing: str) -> None:
    at = REQUIRED.index(missing)
    error = error_of(capsys, "run", *REQUIRED[:at], *REQUIRED[at + 2 :])
    assert error == f"maskbeam run: the following arguments are required: {missing} (see maskbeam run --help)\n"


@pytest.mark.parametrize(
    "arguments", [["walk"], ["--verbose"], [], ["verify"], ["verify", "a", "b"], ["demo", "x"], ["demo", "--x"]]
)
def test_mistakes_before_and_in_other_commands(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert error_of(capsys, *arguments).startswith("maskbeam")


def test_a_repetition_that_is_too_large_is_a_mistake_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--split_by" in error_of(capsys, "run", *REQUIRED, "--split_by", "a{99999999999}")


SWITCHES = [name for name, one in FIELDS.items() if one.default is False]


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize(("text", "value"), [("", True), ("=true", True), ("=True", True), ("=false", False), ("=", False)])
def test_a_switch_is_given_alone_or_with_its_value(name: str, text: str, value: bool) -> None:
    assert getattr(parse(f"--{name}{text}"), name) is value


@pytest.mark.parametrize("name", [name for name, one in FIELDS.items() if one.default is not MISSING])
def test_a_form_that_was_left_empty_means_the_default(name: str) -> None:
    assert parse(f"--{name}=") == parse()


@pytest.mark.parametrize("text", ["1", "99999", "auto", "16"])
def test_numbers_of_shards(text: str) -> None:
    assert parse("--num_shards", text).num_shards == text


@pytest.mark.parametrize(("text", "value"), [("0.001", 0.001), ("2000", 2000.0), ("1e2", 100.0)])
def test_limits(text: str, value: Any) -> None:
    assert parse("--max_record_mb", text).max_record_mb == value
    assert parse("--max_megapixels", text).max_megapixels == value


def test_names_of_options_cannot_be_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the following arguments are required: --annotations" in error_of(capsys, "run", "--annot", "x", *REQUIRED[2:])
