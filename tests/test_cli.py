"""What a person types, and what they are told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Data, Output

from beam_pipeline.cli import explain, main
from transforms import storage


def said_in_one_line(capfd: pytest.CaptureFixture[str]) -> str:
    error = capfd.readouterr().err
    said = [line for line in error.splitlines() if not re.match(r"reading annotations|\d+ of ", line)]  # a slow machine
    assert len(said) == 1, error
    return said[0]


def status(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as error:
        return int(error.code or 0)


def run_arguments(data: Data, output: Path, *more: str) -> list[str]:
    return ["run", "--annotations", str(data.annotations), "--images", str(data.images), "--output", str(output), *more]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run"], "--annotations, --images, --output"),
        (["run", "--annotations", "a", "--images", "b", "--output", "c", "--mask_encoding", "gif"], "png, dense, png1"),
        (["run", "--annotations", "a", "--images", "b", "--output", "c", "--splits", "train=0.5"], "add up to 1"),
        (["run", "--annotations", "a", "--images", "b", "--output", "c", "--num_shards", "none"], "auto or a number"),
        (["run", "--annotations", "a", "--images", "b", "--output", "c", "--split_by", "("], "regular expression"),
        (["run", "--annotations", "a", "--images", "b", "--output", "c", "--max_record_mb", "4000"], "2 GiB"),
        (["verify", "x", "--fast"], "unknown argument --fast"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert status(arguments) == 2
    assert said in said_in_one_line(capfd)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--overwritten"], "unknown option --overwritten: did you mean --overwrite?"),
        (["--num_shard=3"], "did you mean --num_shards?"),
        (["--annotations", "/nowhere/instances.json"], "there is no such file"),
        (["--images", "/nowhere"], "--images /nowhere: there is no such folder"),
        (["--output", "out[1]"], "choose a name without"),
        (["--output", "nothing://out"], "no storage of that kind"),
        (["--output", "hdfs://out/records"], "no storage of that kind is known here: Failed to import hdfs"),
        (["--output", "gs:/bucket/records"], "--output gs:/bucket/records: expected gs://NAME/…"),
        (["--output", "gs://"], "--output gs://: expected gs://NAME/…"),
        (["--runner=FlinkRunner", "--flink_version=1"], "argument --flink_version: invalid choice: '1'"),
    ],
)
def test_what_is_wrong_before_a_job_starts(
    demo_data: Data, tmp_path: Path, more: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert status(run_arguments(demo_data, tmp_path / "out", *more)) == 2
    assert said in said_in_one_line(capfd)
    assert not (tmp_path / "out").exists()


UNUSABLE = [
    ('{"images": [{"id": 1,', "cut off"),
    ('{"images": [], "annotations": []}', "found none for 'categories'"),
    ("[]", "expected a JSON object"),
    ('{"images": [], "categories": [], "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [NaN]}]}', "NaN"),
    ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "expected categories with"),
    ('{"images": [], "annotations": [], "categories": [{"id": 0, "name": "a"}]}', "--category_ids contiguous"),
    ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}', "both named 'a'"),
]
PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")  # their exceptions come as text


@pytest.mark.parametrize(("text", "said", "workers"), [(text, said, ()) for text, said in UNUSABLE] + [(*UNUSABLE[0], PROCESSES)])
def test_an_unusable_annotation_file_is_one_line_and_status_2(
    tmp_path: Path, text: str, said: str, workers: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "instances.json"
    file.write_text(text)
    assert status(run_arguments(Data(file, tmp_path), tmp_path / "out", *workers)) == 2
    assert said in said_in_one_line(capfd)
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_an_existing_data_set_is_refused(demo_data: Data, demo_output: Output, capfd: pytest.CaptureFixture[str]) -> None:
    assert status(run_arguments(demo_data, demo_output.folder)) == 2
    assert "--overwrite" in said_in_one_line(capfd)


def test_a_run_says_what_it_has_done_and_where_to_look_next(
    demo_data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert status(run_arguments(demo_data, output, "--num_shards=3")) == 0
    said = capfd.readouterr()
    assert "29 of 30 images and 212 of 220 annotations written" in said.out
    assert "train: 29 images" in said.out
    assert "in 3 shards" in said.out
    assert "IMAGE_CORRUPT" in said.out
    assert str(output / "rejects.jsonl") in said.out
    assert f"maskbeam verify {output} --coco {demo_data.annotations}" in said.out
    assert "Traceback" not in said.err
    assert status(["verify", str(output), "--coco", str(demo_data.annotations)]) == 0
    assert "29 records with 212 instances in 3 shards: all promises kept" in capfd.readouterr().out


def test_verify_exits_with_1_and_lists_what_is_broken(demo_data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert status(run_arguments(demo_data, output, "--num_shards=3")) == 0
    (output / "train-00001-of-00003.tfrecord").unlink()
    capfd.readouterr()
    assert status(["verify", str(output)]) == 1
    assert "train-00001-of-00003.tfrecord: the shard is missing" in capfd.readouterr().out


def test_verify_of_nothing_is_one_line_and_status_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert status(["verify", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no data set of maskbeam's: there is no manifest.json in it" in said_in_one_line(capfd)


def test_a_job_that_fails_is_one_line_and_status_1(
    demo_data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "move", full)
    assert status(run_arguments(demo_data, tmp_path / "out")) == 1
    assert "No space left on device" in said_in_one_line(capfd)
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_the_demo_does_it_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert status(["demo", "--folder", str(tmp_path / "demo")]) == 0
    said = capfd.readouterr().out
    assert said.count("all promises kept") == 2
    assert json.loads((tmp_path / "demo" / "records" / "manifest.json").read_text())["images"]["written"] == 29


def test_the_demo_does_not_write_among_files_that_are_not_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "annotations.json").write_text("mine")
    assert status(["demo", "--folder", str(tmp_path)]) == 2
    assert "is not empty" in said_in_one_line(capfd)
    assert (tmp_path / "annotations.json").read_text() == "mine"


def test_an_interrupted_job_says_so(
    demo_data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source: str, target: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "move", interrupted)
    assert status(run_arguments(demo_data, tmp_path / "out")) == 130
    assert "interrupted" in capfd.readouterr().err


ON_FLINK = """Pipeline job-1 failed in state FAILED: java.lang.RuntimeError: Error received from SDK harness: \
Traceback (most recent call last):
  File "/transforms/storage.py", line 7, in write_bytes
{error}

\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient.handle(FnApiControlClient.java:201)
\t... 1 more
"""
BY_SPARK = """java.lang.IllegalStateException: Cannot call methods on a stopped SparkContext.
This stopped SparkContext was created at:

org.apache.spark.api.java.JavaSparkContext.<init>(JavaSparkContext.scala:58)
java.base/java.lang.Thread.run(Thread.java:840)
"""
BY_PRISM = """<_MultiThreadedRendezvous of RPC that terminated with:
\tdetails = "Socket closed"
>"""


@pytest.mark.parametrize(
    ("text", "status", "line"),
    [
        (ON_FLINK.format(error="OSError: no space left [while running 'Write']"), 1, "the job failed: OSError: no space left"),
        (ON_FLINK.format(error="OSError: no space left"), 1, "the job failed: OSError: no space left"),
        (ON_FLINK.format(error="transforms.records.InputError: 7 images"), 2, "7 images"),
        (BY_SPARK, 1, "the job failed: java.lang.IllegalStateException: Cannot call methods on a stopped SparkContext."),
        (BY_PRISM, 1, 'the job failed: details = "Socket closed"'),
        ("", 1, "the job failed: without a message"),
    ],
)
def test_what_an_engine_hands_on_is_said_in_a_line(text: str, status: int, line: str) -> None:
    said, found = explain(RuntimeError(text))
    assert said == line
    assert found == status


@pytest.mark.parametrize("verbose", [False, True])
def test_a_trace_is_shown_to_who_asks_for_it(
    demo_data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verbose: bool
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the disk has melted")

    monkeypatch.setattr(storage, "move", broken)
    assert status(run_arguments(demo_data, tmp_path / "out", f"--verbose={str(verbose).lower()}")) == 1
    error = capfd.readouterr().err
    hint = "" if verbose else " (--verbose shows more)"
    assert error.splitlines()[-1] == f"maskbeam: the job failed: the disk has melted{hint}"
    assert ("Traceback (most recent call last)" in error) is verbose


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom beam_pipeline.cli import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'apache_beam', 'tensorflow', 'numpy', 'PIL', 'google.cloud.storage'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "example:" in done.stdout
    for group in ("Input", "Output", "Masks and boxes", "Splits and shards", "What to leave out", "Limits"):
        assert f"{group}:" in done.stdout


def test_the_process_ends_whatever_threads_it_has() -> None:
    code = (
        "import atexit, sys, threading\nfrom beam_pipeline.cli import command\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "atexit.register(print, 'stopped')\n"
        "sys.argv = ['maskbeam', 'verify', 'nothing/here']\ncommand()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == "stopped\n"
    assert len(done.stderr.splitlines()) == 1


def test_what_could_not_be_printed_is_no_success() -> None:
    code = "from beam_pipeline.cli import end\nprint('a word')\nend(0)"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=buffered)
    assert done.returncode == 1
    assert done.stderr.startswith("maskbeam: what it prints could not be written: ")


def test_a_run_imports_no_tensorflow(demo_data: Data, tmp_path: Path) -> None:
    arguments = run_arguments(demo_data, tmp_path / "out")
    code = (
        f"import sys\nfrom beam_pipeline.cli import main\nassert main({arguments!r}) == 0\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
