"""What a job on Dataflow is told where the user says nothing, what is refused at once, and how a failure is put."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipeline import dataflow
from beam_pipeline.cli import explain
from beam_pipeline.options import RunOptions
from transforms.records import InputError

ROOT = Path(__file__).resolve().parents[1]
ENOUGH = {"project": "a-project", "region": "europe-west4"}


def options_of(*flags: str) -> dict[str, object]:
    return PipelineOptions(dataflow.with_defaults(flags)).get_all_options()


@pytest.mark.parametrize(
    ("runner", "expected"),
    [("DataflowRunner", True), ("dataflow", True), ("dataflowrunner", True), ("FnApiRunner", False), ("FlinkRunner", False)],
)
def test_which_jobs_are_for_dataflow(runner: str, expected: bool) -> None:
    assert dataflow.is_dataflow([f"--runner={runner}"]) is expected


def test_without_a_runner_it_is_not_for_dataflow() -> None:
    assert not dataflow.is_dataflow([])


def test_each_default_gives_way_to_the_user() -> None:
    ours = options_of()
    assert {name: str(ours[name]) for name in dataflow.DEFAULTS} == dataflow.DEFAULTS
    other = {"machine_type": "x", "disk_size_gb": "31", "autoscaling_algorithm": "NONE", "max_num_workers": "7"}
    other["number_of_worker_harness_threads"] = "9"
    assert other.keys() == dataflow.DEFAULTS.keys()
    for name, value in other.items():
        assert str(options_of(f"--{name}={value}")[name]) == value
    assert options_of("--worker_machine_type=y")["machine_type"] == "y"
    assert options_of("--save_main_session")["save_main_session"] is True
    assert ours["save_main_session"] is False


def test_experiments_and_labels_of_the_user_stay() -> None:
    found = options_of("--experiments=one,two", "--labels=team=a")
    assert found["experiments"] == ["shuffle_mode=service", "one", "two"]
    assert found["labels"] == [found["labels"][0], "team=a"]
    assert options_of("--experiments=shuffle_mode=appliance")["experiments"] == ["shuffle_mode=appliance"]


def test_defaults_that_would_contradict_what_is_given() -> None:
    assert options_of("--num_workers=100")["max_num_workers"] == 100
    assert options_of("--num_workers=3")["max_num_workers"] == 32
    assert options_of("--dataflow_service_options=enable_prime")["machine_type"] is None  # Prime chooses machines itself


def test_the_page_names_each_default() -> None:
    page = (ROOT / "deploy" / "dataflow.md").read_text(encoding="utf-8")
    for name, value in dataflow.DEFAULTS.items():
        assert f"`--{name}={value}`" in page
    assert f"`--experiments={dataflow.SHUFFLE}`" in page


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"annotations": "instances.json"}, "--annotations instances.json: Dataflow's workers can't see this machine's files"),
        ({"images": "/data/images"}, "--images /data/images: Dataflow's workers can't see this machine's files"),
        ({"output": "records/"}, "--output records/: Dataflow's workers can't see this machine's files"),
        ({"project": None}, "--project is missing"),
        ({"project": "123456789"}, "--project 123456789: expected the id of a project"),
        ({"project": "My project"}, "--project My project: expected the id of a project"),
        ({"region": None}, "--region is missing"),
        ({"region": "europe-west4-a"}, "--region europe-west4-a: expected a region"),
        ({"temp_location": None}, "--temp_location is missing"),
        ({"temp_location": "/tmp/x"}, "--temp_location /tmp/x: expected gs://BUCKET/FOLDER"),
        ({"temp_location": "gs://bucket"}, "--temp_location gs://bucket: expected gs://BUCKET/FOLDER"),
        ({"job_name": "Nightly"}, "--job_name: expected a-z, 0-9 and -, a letter first and no - at the end, found 'Nightly'"),
    ],
)
def test_what_is_wrong_names_the_option(given: dict[str, str | None], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.storage.check", lambda path: True)
    paths = {"annotations": "gs://bkt/instances.json", "images": "gs://bkt/images", "output": "gs://bkt/out"}
    flags = {**ENOUGH, "temp_location": "gs://bkt/temp"}
    dataflow.check(RunOptions(**paths), [f"--{name}={value}" for name, value in flags.items()])
    options = RunOptions(**{name: given.get(name) or path for name, path in paths.items()})
    flags |= {name: value for name, value in given.items() if name not in paths}
    with pytest.raises(InputError) as error:
        dataflow.check(options, [f"--{name}={value}" for name, value in flags.items() if value is not None])
    assert said in str(error.value)


TRACE = """\
Error processing instruction process_bundle-1. Original traceback is
Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1, in process
{error}
"""


@pytest.mark.parametrize(
    ("state", "message", "status", "said"),
    [
        (
            "failed",
            "Workflow failed. Causes:\n  no such zone",
            1,
            "the job failed: Workflow failed. Causes: no such zone; see URL",
        ),
        (
            "failed",
            TRACE.format(error="OSError: full [while running 'Write-ptransform-7']"),
            1,
            "the job failed: OSError: full; see",
        ),
        ("failed", TRACE.format(error="ModuleNotFoundError: No module named 'transforms'"), 1, "the workers have no maskbeam"),
        ("failed", TRACE.format(error="transforms.records.InputError: 7 images [while running 'x']"), 2, "7 images; see URL"),
        ("failed", None, 1, "the job failed: the service does not say why; see URL"),
        ("cancelled", None, 1, "the job failed: it was cancelled; see URL"),
    ],
)
def test_why_a_job_has_ended_is_one_line(state: str, message: str | None, status: int, said: str) -> None:
    line, found = explain(RuntimeError(dataflow.failure(state, message, "URL")))
    assert said in line
    assert found == status
    assert "\n" not in line


# ------------------------------------------------------------------------------------------------ what workers install


@pytest.mark.parametrize(
    "flag",
    ["--sdk_container_image=an/image", "--setup_file=./setup.py", "--extra_package=dist/maskbeam-1.0.tar.gz"],
)
def test_who_says_how_workers_get_maskbeam_gets_it_so(flag: str, tmp_path: Path) -> None:
    assert dataflow.bring_maskbeam([flag], str(tmp_path)) == []
    assert not list(tmp_path.iterdir())


def test_other_packages_are_no_reason_to_leave_ours_out(tmp_path: Path) -> None:
    [flag] = dataflow.bring_maskbeam(["--extra_package=dist/codecs-1.0.whl"], str(tmp_path))
    assert flag == f"--extra_package={next(tmp_path.iterdir())}"


@pytest.mark.parametrize("folder", [ROOT, Path("/")])
def test_the_wheel_holds_what_runs_here_and_says_what_it_needs(folder: Path, tmp_path: Path) -> None:
    program = f"from beam_pipeline.dataflow import write_wheel; print(write_wheel({str(tmp_path)!r}))"
    command = [sys.executable, "-c", program]  # in the checkout another description of the package may be found first
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    with zipfile.ZipFile(made) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist()}
    for package in ("beam_pipeline", "transforms"):
        modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        assert modules == {name for name in files if name.startswith(f"{package}/") and name.endswith(".py")}
    assert all(data == (ROOT / name).read_bytes() for name, data in files.items() if ".dist-info/" not in name)
    [metadata] = [message_from_bytes(data) for name, data in files.items() if name.endswith(".dist-info/METADATA")]
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    needed = re.findall(r'"(.+?)"', setup[setup.index("install_requires") : setup.index("extras_require")])
    assert sorted(metadata.get_all("Requires-Dist")) == sorted(needed)
