"""The Dataflow flex template's form: complete, in Google's own format, and of one mind with the command line."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields

import pytest
from google.cloud.dataflow_v1beta3 import TemplateMetadata
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipeline.flex_template import as_json, metadata
from beam_pipeline.options import RunOptions, about

FIELDS = {one.name: one for one in fields(RunOptions)}
PARAMETERS = {one["name"]: one for one in json.loads(as_json(metadata()))["parameters"]}


def test_the_metadata_is_what_the_dataflow_api_knows() -> None:
    found = TemplateMetadata.from_json(as_json(metadata()))
    assert found.name == "maskbeam"
    assert [one.name for one in found.parameters] == list(PARAMETERS)
    for one in found.parameters:  # gcloud refuses a template without
        assert one.label
        assert one.help_text
        assert one.group_name


def test_every_option_is_in_the_form_but_those_of_a_terminal() -> None:
    assert set(FIELDS) - set(PARAMETERS) == {"verbose"}
    assert list(PARAMETERS) == [name for name in FIELDS if name in PARAMETERS]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_is_as_its_option(name: str) -> None:
    shown, one = PARAMETERS[name], FIELDS[name]
    assert shown["helpText"] == about(one).help
    assert shown["isOptional"] is (one.default is not MISSING)
    texts = {MISSING: None, None: None, False: "false"}
    assert shown.get("defaultValue") == (texts[one.default] if one.default in texts else str(one.default))
    assert [choice["value"] for choice in shown.get("enumOptions", [])] == list(about(one).choices or [])
    assert (shown["paramType"] == "ENUM") == bool(about(one).choices)
    assert (shown["paramType"] == "BOOLEAN") == (one.default is False)


def test_paths_and_numbers_have_their_own_inputs() -> None:
    kinds = {name: shown["paramType"] for name, shown in PARAMETERS.items() if shown["paramType"] not in ("BOOLEAN", "ENUM")}
    assert kinds == {
        "annotations": "GCS_READ_FILE",
        "images": "GCS_READ_FOLDER",
        "output": "GCS_WRITE_FOLDER",
        "splits": "TEXT",
        "split_by": "TEXT",
        "num_shards": "TEXT",
        "max_record_mb": "NUMBER",
        "max_megapixels": "NUMBER",
        "max_points": "NUMBER",
        "max_instances": "NUMBER",
        "max_reject_fraction": "NUMBER",
    }


def taken(name: str, text: str) -> bool:
    try:
        about(FIELDS[name]).parse(text)
    except ValueError:
        return False
    return True


WITH_REGEX = [name for name, shown in PARAMETERS.items() if "regexes" in shown]
TEXTS = st.one_of(
    st.integers(-1, 10**10).map(str),
    st.from_regex(r"[0aut1-9 ]{0,11}", fullmatch=True),
    st.lists(st.sampled_from(["train", "=", "0.5", "1", "5e-1", ",", " ", "\t", "val", "x", "-", "."]), max_size=7).map("".join),
    st.text(max_size=6),
)


@pytest.mark.parametrize("name", WITH_REGEX)
@settings(max_examples=400, deadline=None, derandomize=True)
@given(text=TEXTS)
def test_a_form_refuses_nothing_that_the_option_takes(name: str, text: str) -> None:
    (regex,) = PARAMETERS[name]["regexes"]
    matches = re.fullmatch(regex, text) is not None
    assert matches or not taken(name, text)
    if name != "splits":  # whose shares have to add up besides
        assert matches == taken(name, text)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("splits", ["train", "train=0.9,val=0.1", "a=.5, b=.5"], ["", "train=1,", "=1", "a-b=1", "train=0.5;val=0.5"]),
        ("num_shards", ["auto", "1", "99999"], ["", "0", "100000", "1.5", "-1", "autos"]),
        ("max_points", ["1", "100000", "999999999"], ["", "0", "-3", "1e3", "1000000000"]),
        ("max_instances", ["1"], ["0"]),
    ],
)
def test_what_a_form_takes_and_refuses(name: str, good: list[str], bad: list[str]) -> None:
    (regex,) = PARAMETERS[name]["regexes"]
    assert [text for text in good + bad if re.search(regex, text)] == good
    assert all(taken(name, text) for text in good)
    assert not any(taken(name, text) for text in bad)


def test_all_that_have_a_regex_are_looked_at() -> None:
    assert WITH_REGEX == ["splits", "num_shards", "max_points", "max_instances"]
