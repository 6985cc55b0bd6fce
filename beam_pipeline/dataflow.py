"""Dataflow: what a job there needs to be told, what its workers get to run, and what is seen while it runs.

The service is what this knows of; `deploy/dataflow.md` says why each default is what it is.
"""

from __future__ import annotations

import re
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from google.api_core.exceptions import GoogleAPICallError

from beam_pipeline import __version__, interrupts
from beam_pipeline.options import RunOptions, job_name
from beam_pipeline.terminal import Terminal, duration, showing
from transforms import storage
from transforms.records import InputError

DEFAULTS: dict[str, str] = {
    "machine_type": "e2-standard-4",
    "disk_size_gb": "50",
    "autoscaling_algorithm": "THROUGHPUT_BASED",
    "max_num_workers": "32",
    "number_of_worker_harness_threads": "2",
}
"""Beam's options that a job of ours has on Dataflow, where the user gives none; by their names in `PipelineOptions`."""
SHUFFLE = "shuffle_mode=service"
STATE_SECONDS = 300.0
"""How often to say that a job still runs, where there is no terminal."""
_PACKAGES = ("beam_pipeline", "transforms")
_REGION = re.compile(r"[a-z]+-[a-z]+\d+")
_FOLDER = re.compile(r"gs://[^/]+/.*", re.DOTALL)


class LostSightError(RuntimeError):
    """A job was submitted, and what has become of it can't be seen."""


def is_dataflow(flags: Sequence[str]) -> bool:
    """Whether Beam takes its flags for a job on Dataflow; it knows the runner by other names too, in any case."""
    runner = PipelineOptions(flags).get_all_options().get("runner") or ""
    return str(runner).rpartition(".")[2].lower().removesuffix("runner") == "dataflow"


# ---------------------------------------------------------------------------------------------------- before the job


def with_defaults(flags: Sequence[str]) -> list[str]:
    """The user's flags, and before them `DEFAULTS` and others for what they leave open."""
    given = PipelineOptions(flags).get_all_options()
    service = given["dataflow_service_options"] or []
    experiments = given["experiments"] or []
    ours = [f"--labels=maskbeam={re.sub('[^a-z0-9_-]', '-', __version__)}"]
    for name, value in DEFAULTS.items():
        if given[name] is None and not (name == "machine_type" and "enable_prime" in service + experiments):
            ours.append(f"--{name}={max(int(value), given['num_workers'] or 0) if name == 'max_num_workers' else value}")
    if not any(experiment.startswith("shuffle_mode=") for experiment in experiments):
        ours.append(f"--experiments={SHUFFLE}")
    if given["save_main_session"] is None:
        ours.append("--no_save_main_session")  # Beam's own default on Dataflow is to pickle what happens to be in `__main__`
    return [*ours, *flags]


def check(options: RunOptions, flags: Sequence[str]) -> None:
    """Raises `InputError`, which names the option, for what Dataflow would refuse later, or its workers could not reach."""
    for name in ("annotations", "images", "output"):
        path = getattr(options, name)
        if storage.is_local(path):
            raise InputError(f"--{name} {path}: Dataflow's workers can't see this machine's files, expected gs://BUCKET/…")
    given = PipelineOptions(flags).get_all_options()
    project, region = given["project"], given["region"]
    if not project:
        raise InputError("--project is missing: Dataflow has to know in which project the job runs")
    if not re.fullmatch(PipelineOptionsValidator.PROJECT_ID_PATTERN, project):
        raise InputError(f"--project {project}: expected the id of a project, not its number or its title")
    if not region:
        raise InputError("--region is missing: Dataflow has to know where, as in us-central1, best where the buckets are")
    if not _REGION.fullmatch(region):
        raise InputError(f"--region {region}: expected a region, as in us-central1 (a zone is for --worker_zone)")
    if given["job_name"]:
        try:
            job_name(given["job_name"])
        except ValueError as error:
            raise InputError(f"--job_name: {error}") from None
    if not given["temp_location"]:
        raise InputError("--temp_location is missing: Dataflow needs a folder for what is temporary, gs://BUCKET/FOLDER")
    for name in ("temp_location", "staging_location", "template_location"):
        folder = given[name]
        if folder and not _FOLDER.fullmatch(folder):
            raise InputError(f"--{name} {folder}: expected gs://BUCKET/FOLDER")
        if folder:
            try:
                storage.check(folder)
            except InputError as error:
                raise InputError(f"--{name} {error}") from None


def bring_maskbeam(flags: Sequence[str], folder: str) -> list[str]:
    """Flags by which workers get maskbeam, if neither an image nor a package that the user names is to bring it.

    Then they install what runs here, from a wheel that is written into `folder`.
    """
    given = PipelineOptions(flags).get_all_options()
    packages = [Path(package).name for package in given["extra_packages"] or []]
    images = given["sdk_container_image"], given["worker_harness_container_image"], given["setup_file"]
    if any(images) or any(name.startswith("maskbeam-") for name in packages):
        return []
    return [f"--extra_package={write_wheel(folder)}"]


def write_wheel(folder: str) -> str:
    """A wheel of the very files that run here, whether installed or in a checkout. Raises `InputError` if neither is so.

    Format: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    """
    try:
        installed = distribution("maskbeam")
    except PackageNotFoundError:
        raise InputError(
            "maskbeam is not installed here, so it can't be sent to the workers: install it with pip, or give "
            "--sdk_container_image with an image that has it, or --setup_file with its setup.py"
        ) from None
    root = Path(__file__).resolve().parents[1]
    paths = (path for package in _PACKAGES for path in sorted((root / package).rglob("*")) if path.is_file())
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths if path.suffix != ".pyc"}
    name = f"maskbeam-{installed.version}"
    needed = [requirement for requirement in installed.requires or [] if "extra ==" not in requirement]
    metadata = ["Metadata-Version: 2.1", "Name: maskbeam", f"Version: {installed.version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in needed]
    files[f"{name}.dist-info/METADATA"] = "".join(f"{line}\n" for line in metadata).encode()
    files[f"{name}.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: maskbeam\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = f"{name}.dist-info/RECORD"
    files[record] = "".join(f"{path},,\n" for path in [*files, record]).encode()
    wheel = Path(folder) / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return str(wheel)


@contextmanager
def prepared(options: RunOptions, flags: Sequence[str]) -> Iterator[PipelineOptions]:
    """Beam's options of a job on Dataflow, whose files are there until the block ends. Raises `InputError` as `check` does."""
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    if not PipelineOptions(flags).view_as(GoogleCloudOptions).region:
        found = DataflowRunner().get_default_gcp_region()  # gcloud's
        flags = [*flags, f"--region={found}"] if found else flags
    check(options, flags)
    with tempfile.TemporaryDirectory(prefix="maskbeam-") as folder:
        interrupts.TO_DELETE.add(folder)
        yield PipelineOptions([*with_defaults(flags), *bring_maskbeam(flags, folder)], enable_streaming_engine=False)
        interrupts.TO_DELETE.discard(folder)


# ----------------------------------------------------------------------------------------------------------- the job


def run(pipeline: beam.Pipeline, terminal: Terminal) -> Any | None:
    """Runs a job to its end, and gives Beam's result; or None where nobody waits for it.

    That is so with `--no_wait_until_finish`, and with `--template_location`, by which only the graph is written, for a launch
    from there. Raises `RuntimeError`, with what the service says, if it does not take the job, or the job fails.
    """
    try:
        result = pipeline.run()
    except GoogleAPICallError as error:
        raise RuntimeError(f"Dataflow does not take the job: {one_line(error.message)}") from error
    if not result.has_job:
        terminal.say(f"the job's graph is written to {pipeline.options.view_as(GoogleCloudOptions).template_location}")
        return None
    cloud = pipeline.options.view_as(GoogleCloudOptions)
    url = f"https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{result.job_id()}?project={cloud.project}"
    terminal.say(f"Created job with id: [{result.job_id()}], see {url}")  # in these words Airflow's operators look for it
    if pipeline.options.view_as(StandardOptions).no_wait_until_finish:
        return None
    cancel = f"gcloud dataflow jobs cancel {result.job_id()} --project={cloud.project} --region={cloud.region}"
    interrupts.GOES_ON.append(f"the job goes on; {cancel} ends it")
    try:
        state, message = wait(pipeline.runner, result, terminal)
    except Exception as error:
        raise LostSightError(
            f"Dataflow can't be asked any more how it stands: {one_line(str(error))}; it may go on: {url}"
        ) from error
    interrupts.GOES_ON.clear()
    if state != "done":
        raise RuntimeError(failure(state, message, url))
    return result


def wait(runner: Any, result: Any, terminal: Terminal) -> tuple[str, str | None]:
    """Waits until a job has ended, and says meanwhile how it stands. Gives its last state, and of one that failed the message."""
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    began, state = time.monotonic(), "submitted"

    def line() -> str:
        return f"Dataflow: {state}, {duration(time.monotonic() - began)}"

    def changed(name: str) -> None:
        nonlocal state
        state = name.removeprefix("JOB_STATE_").lower().replace("_", " ")
        terminal.status(line())

    with showing(terminal, line, STATE_SECONDS, STATE_SECONDS):
        while not result.is_in_terminal_state():  # Beam also comes back from a job that waits, if the service has logged an error
            DataflowRunner.poll_for_job_completion(runner, result, None, changed)
    return state, runner.last_error_msg


def failure(state: str, message: str | None, url: str) -> str:
    """What a user is told of a job that has ended otherwise than done."""
    said = f"it was {state}" if state != "failed" else one_line(message or "") or "the service does not say why"
    if re.search(r"No module named '(beam_pipeline|transforms)", said):
        said += "; the workers have no maskbeam, the image or package that was named for them does not bring it"
    return f"{said}; see {url}"


def one_line(message: str) -> str:
    """The line of a message that matters: of a stack trace the last, else all of it as one."""
    lines = [line.strip() for line in message.split(" [while running", maxsplit=1)[0].splitlines() if line.strip()]
    return lines[-1] if "Traceback" in message else " ".join(lines)
