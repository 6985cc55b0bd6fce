"""The Dataflow flex template: its form, complete and of one mind with the command line, in Google's own format; its commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml
from dataflow_server import dataflow_server
from documented import blocks, command_on
from google.cloud.dataflow_v1beta3 import ContainerSpec, SDKInfo, TemplateMetadata
from google.cloud.devtools.cloudbuild_v1 import Build
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipeline import flex_template
from beam_pipeline.flex_template import as_text, image_spec, metadata
from beam_pipeline.options import RunOptions, about
from beam_pipeline.reference import CHECKOUT
from deploy.flex_template import main

FIELDS = {one.name: one for one in fields(RunOptions)}
PARAMETERS = {one["name"]: one for one in json.loads(as_text(metadata()))["parameters"]}


def test_the_metadata_is_what_the_dataflow_api_knows() -> None:
    found = TemplateMetadata.from_json(as_text(metadata()))
    assert found.name == "maskbeam"
    assert [one.name for one in found.parameters] == list(PARAMETERS)
    for one in found.parameters:  # gcloud refuses a template without
        assert one.label
        assert one.help_text
        assert one.group_name


def test_every_option_is_in_the_form_but_those_of_a_machine_where_somebody_sits() -> None:
    assert set(FIELDS) - set(PARAMETERS) == {"workers", "profile", "verbose"}
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
        "annotations": "TEXT",
        "images": "GCS_READ_FOLDER",
        "masks": "GCS_READ_FOLDER",
        "class_attribute": "TEXT",
        "output": "GCS_WRITE_FOLDER",
        "max_side": "NUMBER",
        "tile": "TEXT",
        "tile_overlap": "NUMBER",
        "tile_min_share": "NUMBER",
        "splits": "TEXT",
        "split_by": "TEXT",
        "num_shards": "TEXT",
        "categories": "GCS_READ_FILE",
        "min_area": "NUMBER",
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
    assert WITH_REGEX == ["max_side", "tile", "tile_overlap", "splits", "num_shards", "max_points", "max_instances"]


# ------------------------------------------------------------------------------------------------------- the launcher


@pytest.mark.parametrize(
    ("given", "image", "workers"),
    [
        (["--output=o"], "r/maskbeam:1", ["--sdk_container_image=r/maskbeam:1"]),
        (["--output=o"], "", []),
        (["--output=o", "--sdk_container_image=mine:2"], "r/maskbeam:1", []),
    ],
)
def test_workers_get_the_launchers_image_unless_another_is_named(
    given: list[str], image: str, workers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(flex_template, "main", lambda arguments: called.append(list(arguments)) or 7)
    monkeypatch.setenv("MASKBEAM_IMAGE", image)
    assert flex_template.launch(given) == 7
    [arguments] = called
    assert arguments[0] == "run"
    assert [one for one in arguments if "image" in one] == workers + [one for one in given if "image" in one]
    assert set(given) <= set(arguments)


# ------------------------------------------------------------------------------------------------------- the commands


IMAGE = "us-central1-docker.pkg.dev/a-project/tools/maskbeam:1.2"
BUILD = ["build", "--project=a-project", "--region=us-central1", "--repository=tools", "--template=gs://bkt/t.json", "--tag=1.2"]
LAUNCH = ["launch", "--project=a-project", "--region=us-central1", "--template=gs://bkt/t.json", "--temp_location=gs://bkt/temp"]
DATA = ["--annotations=gs://bkt/a.json", "--images=gs://bkt/photos", "--output=gs://bkt/records"]
AWKWARD = ["--splits=train=0.9,val=0.1", r"--split_by=^(\w+) 'of' (a|b), $HOME", "--resume", "--max_record_mb=12.5"]
WANTED = {
    "annotations": "gs://bkt/a.json",
    "images": "gs://bkt/photos",
    "output": "gs://bkt/records",
    "splits": "train=0.9,val=0.1",
    "split_by": r"^(\w+) 'of' (a|b), $HOME",
    "resume": "true",
    "max_record_mb": "12.5",
}
gcloud = pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed here")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """That of a gcloud that knows of no user, and asks nobody."""
    settings = {"CONFIG": str(folder / "gcloud"), "CORE_DISABLE_PROMPTS": "1", "CORE_PROJECT": "a-project"}
    settings |= {"CORE_SURVEY_DISABLE_PROMPTS": "1", "CORE_DISABLE_USAGE_REPORTING": "1", "AUTH_DISABLE_CREDENTIALS": "true"}
    return {**os.environ, **{f"CLOUDSDK_{name}": value for name, value in (settings | more).items()}}


@pytest.mark.parametrize(
    "arguments",
    [BUILD, [*BUILD, "--", "--async"], [*LAUNCH, *DATA], [*LAUNCH, *DATA, *AWKWARD, "--", "--max-workers=50"]],
    ids=["build", "build with more", "launch", "launch with more"],
)
def test_what_a_dry_run_prints_is_what_is_called(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    called = tmp_path / "called.json"
    fake = tmp_path / "gcloud"
    record = f"import json, sys\nopen({str(called)!r}, 'w').write(json.dumps(sys.argv[1:]))\nsys.exit(3)"
    fake.write_text(f"#!{sys.executable}\n{record}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    at = arguments.index("--") if "--" in arguments else len(arguments)
    assert main([*arguments[:at], "--dry_run", *arguments[at:]]) == 0
    printed = capfd.readouterr().out
    assert not called.exists()
    assert main(arguments) == 3  # gcloud's own
    assert capfd.readouterr().out == printed
    expected = json.loads(called.read_text())
    assert ["gcloud", *expected] == shlex.split(printed)
    called.unlink()
    subprocess.run(["bash", "-c", printed], check=False)  # as pasted
    assert json.loads(called.read_text()) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: build|launch"),
        (BUILD[:-2], "required: --template"),
        ([*BUILD, "--template=/tmp/t.json"], "argument --template: expected gs://BUCKET/…, found '/tmp/t.json'"),
        ([*LAUNCH[:-1], *DATA], "required: --temp_location"),
        ([*LAUNCH, *DATA, "--temp_location=temp"], "argument --temp_location: expected gs://BUCKET/…, found 'temp'"),
        ([*LAUNCH, *DATA[:2]], "required: --output"),
        (
            [*LAUNCH, *DATA, "--images=photos"],
            "argument --images: expected a path that Dataflow's workers can see",
        ),
        ([*LAUNCH, *DATA, "--splits=train=0.5"], "argument --splits: expected shares above 0 that add up to 1"),
        ([*LAUNCH, *DATA, "--num_shard=3"], "unknown option --num_shard: gcloud's own follow a --"),
        ([*LAUNCH, *DATA, "--job_name=May_1"], "argument --job_name: expected a-z, 0-9 and -"),
        ([*LAUNCH, *DATA, "--verbose"], "argument --verbose: it is no parameter of the template"),
        ([*LAUNCH, *DATA, "--split_by=~|;#!@%"], "to keep them apart for gcloud"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_called(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("called"))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capfd.readouterr().err


def test_without_gcloud_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit) as ended:
        main(BUILD)
    assert ended.value.code == 2
    assert "gcloud is not here" in capfd.readouterr().err


def test_the_commands_need_nothing_installed() -> None:
    command = [sys.executable, "-S", "-m", "deploy.flex_template", *LAUNCH, *DATA, "--dry_run"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("gcloud dataflow flex-template run maskbeam ")


@gcloud
def test_gcloud_asks_dataflow_for_the_job_that_was_meant(tmp_path: Path) -> None:
    with dataflow_server() as service:
        settings = environment(tmp_path, API_ENDPOINT_OVERRIDES_DATAFLOW=f"{service.endpoint}/")
        arguments = [*LAUNCH, "--job_name=weekly", *DATA, *AWKWARD, "--", "--max-workers=50"]
        command = [sys.executable, "-m", "deploy.flex_template", *arguments]
        done = subprocess.run(command, cwd=CHECKOUT, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        [body] = service.bodies("POST", "/flexTemplates:launch")
    asked = body["launchParameter"]
    assert asked["jobName"] == "weekly"
    assert asked["containerSpecGcsPath"] == "gs://bkt/t.json"
    assert asked["parameters"] == WANTED
    assert asked["environment"]["tempLocation"] == "gs://bkt/temp"
    assert asked["environment"]["maxWorkers"] == 50


# ---------------------------------------------------------------------------------------------------------- the build


def build_steps() -> list[list[str]]:
    """The commands of cloudbuild.yaml, with what `build` puts in."""
    described = yaml.safe_load((CHECKOUT / "deploy" / "cloudbuild.yaml").read_text())
    build = Build.from_json(json.dumps(described))  # which refuses what it does not know
    put_in = {"_IMAGE": IMAGE, "_TEMPLATE": "gs://bkt/t.json"}
    asked = set(re.findall(r"\$\{?(\w+)", json.dumps(described)))
    assert asked == set(put_in)
    commands = [[step.entrypoint or Path(step.name).name.partition(":")[0], *step.args] for step in build.steps]
    return [[re.sub(r"\$\{(\w+)\}", lambda name: put_in[name[1]], word) for word in command] for command in commands]


def test_the_build_makes_the_image_and_the_template() -> None:
    image, push, template = build_steps()
    assert image == ["docker", "build", "--file=deploy/Dockerfile", f"--build-arg=IMAGE={IMAGE}", f"--tag={IMAGE}", "."]
    assert push == ["docker", "push", IMAGE]
    assert template[:5] == ["gcloud", "dataflow", "flex-template", "build", "gs://bkt/t.json"]
    for option in image + template:
        name, _, path = option.partition("=")
        if name in ("--file", "--metadata-file"):
            assert (CHECKOUT / path).is_file()


def test_the_build_is_submitted_with_all_that_it_asks_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*BUILD, "--dry_run"]) == 0
    command = shlex.split(capfd.readouterr().out)
    assert command[:4] == ["gcloud", "builds", "submit", str(CHECKOUT)]
    assert f"--config={CHECKOUT / 'deploy' / 'cloudbuild.yaml'}" in command
    assert f"--substitutions=^~^_IMAGE={IMAGE}~_TEMPLATE=gs://bkt/t.json" in command


def test_an_image_is_tagged_by_version_and_commit(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*BUILD[:-1], "--dry_run"]) == 0
    assert re.search(r"/a-project/tools/maskbeam:0\.1\.0(-[0-9a-f]+(-dirty)?)?~", capfd.readouterr().out)


def test_the_template_is_what_the_dataflow_api_knows() -> None:
    found = ContainerSpec.from_json(as_text(image_spec(IMAGE)))
    assert found.image == IMAGE
    assert found.sdk_info.language == SDKInfo.Language.PYTHON
    assert found.metadata == TemplateMetadata.from_json(as_text(metadata()))


@gcloud
def test_the_template_is_what_gcloud_makes_of_it(tmp_path: Path) -> None:
    command = [*build_steps()[2], "--print-only", "--format=value(.)"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {**image_spec(IMAGE), "defaultEnvironment": {}}


def test_the_commands_of_the_page_are_right() -> None:
    for name in ("build", "launch"):
        command = command_on("deploy/flex_template.md", f"python3 -m deploy.flex_template {name} ")
        assert main([*shlex.split(command)[3:], "--dry_run"]) == 0


@gcloud
def test_gcloud_knows_the_commands_of_the_page(tmp_path: Path) -> None:
    names = {"PROJECT": "a-project", "REGION": "europe-west4", "BUCKET": "bkt"}
    page = [command for block in blocks("deploy/flex_template.md") for command in block if command.startswith("gcloud ")]
    assert len(page) == 3
    for command in page:
        filled = re.sub("|".join(names), lambda match: names[match[0]], command)
        lint = ["gcloud", "meta", "lint-gcloud-commands", f"--command-string={filled}"]  # which parses, and calls nothing
        done = subprocess.run(lint, env=environment(tmp_path), capture_output=True, text=True, check=False)
        [found] = json.loads(done.stdout)
        assert found["success"], found["error_message"]
