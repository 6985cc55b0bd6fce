"""Every command of the documentation is run as it is written: here, or by the test that `ELSEWHERE` names.

A page is a session in a folder of its own, in which lies what its commands name.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Data, Output
from documented import CHECKOUT, PAGES, blocks, text_of
from PIL import Image
from pycocotools import mask as cocomask
from storage_server import free_port
from written_formats import FORMATS, HEIGHT, WIDTH, Annotated, Written, as_coco, decoded, whole

from beam_pipeline.cli import main
from beam_pipeline.options import Parser, add_options, options_from
from beam_pipeline.run import check_beam_options
from transforms.sources import COCO, NAMES

TRAINERS = "tests/trainers/test_trainers.py"
ENGINES = "tests/engines/test_engines.py"
FLEX = "tests/test_flex_template.py"
ELSEWHERE = {
    "README.md": {"make demo": ".ci/run", "make test": ".ci/run"},
    "docs/start.md": {"make demo": ".ci/run"},
    "docs/training.md": {
        "python -m object_detection.model_main ": f"{TRAINERS}::test_slim_configuration_trains",
        "python -m official.vision.train ": f"{TRAINERS}::test_model_garden_trains",
    },
    "deploy/airflow/README.md": {
        "airflow backfill create ": "tests/airflow/test_airflow.py::"
        "test_a_backfill_under_the_scheduler_gives_the_same_bytes_for_each_date_even_if_a_job_is_killed"
    },
    "deploy/dataflow.md": {"maskbeam run ": "tests/cloud/test_dataflow.py::test_the_command_of_the_page"},
    "deploy/flex_template.md": {
        "gcloud ": f"{FLEX}::test_gcloud_knows_the_commands_of_the_page",
        "python3 -m deploy.flex_template ": f"{FLEX}::test_the_commands_of_the_page_are_right",
    },
    "deploy/flink.md": {
        "python tests/engines/engines.py": f"{ENGINES}::test_the_demo_as_a_user_tries_an_engine",
        "maskbeam run --annotations instances.json ": f"{ENGINES}::test_the_demo_as_a_user_tries_an_engine",
        "maskbeam run --annotations gs://": f"{ENGINES}::test_a_cluster_gets_the_options_of_its_page",
    },
    "deploy/spark.md": {
        "python tests/engines/engines.py": f"{ENGINES}::test_the_demo_as_a_user_tries_an_engine",
        "maskbeam run --annotations instances.json ": f"{ENGINES}::test_the_demo_as_a_user_tries_an_engine",
        "maskbeam run --annotations gs://": f"{ENGINES}::test_a_cluster_gets_the_options_of_its_page",
    },
    "deploy/prism.md": {
        "GOBIN=$PWD go install ": f"{ENGINES}::test_the_demo_as_a_user_tries_an_engine",
        "maskbeam run ": f"{ENGINES}::test_the_demo_as_a_user_tries_an_engine",
    },
    "deploy/storage.md": {
        "export AWS_ACCESS_KEY_ID=": "tests/cloud/test_stores.py::test_the_commands_of_the_page",
        "maskbeam run --annotations s3://": "tests/cloud/test_stores.py::test_the_commands_of_the_page",
    },
}
"""By page and beginning: what needs a cluster, a trainer, a network or long, and the test that runs it."""


def elsewhere(page: str, command: str) -> bool:
    return any(command.startswith(beginning) for beginning in ELSEWHERE.get(page, ()))


HERE = [page for page in PAGES if any(not elsewhere(page, command) for block in blocks(page) for command in block)]

# ------------------------------------------------------------------------------------------------------------- the data

OBJECTS = [
    ("kitten", [10.0, 12, 300, 20, 200, 330]),
    ("dog", [250.0, 100, 500, 120, 450, 300, 390, 210]),
    ("tomcat", [400.0, 200, 630, 200, 630, 470, 400, 470]),
    ("kite", [20.0, 400, 90, 380, 120, 460]),
]
DATA = [Annotated(f"{number:03d}.jpg", OBJECTS[: 1 + number % 4]) for number in range(8)]


def options_of(command: str) -> dict[str, str]:
    words = shlex.split(command, comments=True)
    return {word: value for word, value in pairwise(words) if word.startswith("--")}


def draw_images(folder: Path, name: str = "{}.jpg") -> None:
    for number, one in enumerate(DATA):
        path = folder / name.format(Path(one.file_name).stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (30 * number, 90, 9)).save(path, "JPEG")


def write_default(folder: Path, page: str) -> None:
    """What pages name that are not about one format."""
    draw_images(folder / "photos")
    draw_images(folder / "annotated")
    FORMATS["labelme"].write(DATA, folder / "annotated")
    as_coco(DATA, folder / "instances.json", whole)
    (folder / "parts").mkdir()
    as_coco(DATA[:4], folder / "parts" / "1.json", whole)
    as_coco(DATA[4:], folder / "parts" / "2.json", whole, first_id=1000)
    for name in ("faster_rcnn.config", "my_faster_rcnn.config"):
        (folder / name).write_bytes((CHECKOUT / "tests" / "trainers" / "faster_rcnn.config").read_bytes())
    for classes in re.findall(r"```yaml\n(rename:.*?)```", text_of(page), re.DOTALL):
        (folder / "classes.yaml").write_text(classes)


def write_format(folder: Path, written: Written, command: str) -> None:
    """One format's files, where the command of its page says that they are."""
    given = {name: folder / path for name, path in options_of(command).items()}
    annotations, scratch = given["--annotations"], folder / "scratch"
    (annotations.parent if annotations.suffix else annotations).mkdir(parents=True, exist_ok=True)
    scratch.mkdir()
    written.write(DATA, scratch)
    for path in scratch.iterdir():
        if path.name == "masks" and "--masks" in given:
            path.rename(given["--masks"])
        elif annotations.suffix:  # one file, and perhaps a folder beside it that is called like it
            path.rename(annotations if path.is_file() else annotations.with_suffix(""))
        else:
            path.rename(annotations / path.name)
    draw_images(given["--images"], written.image)
    if "--masks" in given:
        given["--masks"].mkdir(exist_ok=True)


# ---------------------------------------------------------------------------------------------------------- the effects


def records_of(folder: Path, tf: Any) -> dict[str, list[bytes]]:
    """By the image's name, its masks' pixels, sorted: read by TensorFlow and Pillow."""
    found = {}
    for shard in sorted(folder.glob("*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            masks = [np.asarray(Image.open(io.BytesIO(png))) for png in features["image/object/mask"].bytes_list.value]
            name = features["image/filename"].bytes_list.value[0].decode()
            found[name.rpartition("/")[2]] = sorted(mask.tobytes() for mask in masks)
    return found


def expected(page: str, command: str) -> dict[str, list[bytes]]:
    """The same, of what was annotated: drawn by pycocotools."""
    written = FORMATS.get(Path(page).stem, Written(as_coco))
    kept = {"kitten", "tomcat", "dog"} if "--categories" in command else {name for name, _ in OBJECTS}
    return {
        written.image.format(Path(one.file_name).stem).rpartition("/")[2]: sorted(
            decoded(shape).tobytes()
            for shape in (written.shapes or whole)(one._replace(objects=[two for two in one.objects if two[0] in kept]))
        )
        for one in DATA
    }


def exported(folder: Path) -> dict[str, list[bytes]]:
    """As `records_of`, of COCO files: read by pycocotools."""
    found: dict[str, list[bytes]] = {}
    for path in (folder / "annotations").glob("*.json"):
        data = json.loads(path.read_text())
        names = {one["id"]: one["file_name"].rpartition("/")[2] for one in data["images"]}
        found |= {name: [] for name in names.values()}
        for one in data["annotations"]:
            found[names[one["image_id"]]].append(cocomask.decode(one["segmentation"]).tobytes())
    return {name: sorted(masks) for name, masks in found.items()}


def show_something(path: Path, longer_side: int) -> None:
    if path.suffix == ".html":
        assert path.read_text().count("<img") > 0
    else:
        with Image.open(path) as picture:
            assert max(picture.size) >= longer_side
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 100, "a picture with something on it"


def run_here(command: str, page: str, folder: Path, tf: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Runs `maskbeam …` in this process, and looks at what has come of it."""
    words, given = shlex.split(command, comments=True)[1:], options_of(command)
    output = folder / given["--output"] if "--output" in given else None
    if words[0] == "run" and output and output.exists():  # as for a reader who tries one after the other
        output.rename(folder / f"earlier{len(list(folder.glob('earlier*')))}")
    capfd.readouterr()
    assert main(words) == (1 if words[0] == "compare" else 0), command
    said = capfd.readouterr().out
    if words[0] == "run":
        assert output
        assert (output / "_SUCCESS").is_file()
        assert records_of(output, tf) == expected(page, command), command
    elif words[0] == "verify":
        assert "all promises kept" in said
        assert "--coco" not in given or f"equal to {given['--coco']}" in said
    elif words[0] == "trainer-config":
        assert f"{Path(words[1])}/train-" in (folder / given["--config"]).read_text()
    elif words[0] == "demo":
        assert len(records_of(folder / "maskbeam-demo" / "records", tf)) == 29
    elif words[0] == "show":
        show_something(output or folder / f"{Path(words[1]).name}-pictures.png", int(given.get("--size", "1")))
    elif words[0] == "export":
        assert output
        assert exported(output) == records_of(folder / words[1], tf)
    elif words[0] == "compare":
        assert "images: 0 added, 1 removed, 0 changed, 28 the same" in said
        assert not output or "beach-005.jpg" in output.read_text()
    else:
        raise AssertionError(f"what is to be seen of it is not known here: {command}")


def run_by_a_shell(block: list[str], folder: Path) -> None:
    """Runs a block in Bash as if it were in a checkout, its emulator at a port that is free."""
    script = "\n".join(block).replace("9012", str(free_port()))
    environment = os.environ | {"PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(CHECKOUT)}
    (folder / ".venv").symlink_to(sys.prefix)
    shell = ["bash", "-euo", "pipefail", "-c", f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"]
    with (folder / "log").open("w") as log:
        done = subprocess.run(shell, cwd=folder, env=environment, stdout=log, stderr=log, timeout=120, check=False)
    assert done.returncode == 0, (folder / "log").read_text()
    assert (folder / "log").read_text()


@pytest.fixture(scope="session")
def tuesday(demo_data: Data, run_demo: Callable[..., Output], tmp_path_factory: pytest.TempPathFactory) -> Output:
    """The demo's records without image 5."""
    data = json.loads(demo_data.annotations.read_text())
    data["images"] = [one for one in data["images"] if one["id"] != 5]
    data["annotations"] = [one for one in data["annotations"] if one["image_id"] != 5]
    changed = tmp_path_factory.mktemp("tuesday") / "annotations.json"
    changed.write_text(json.dumps(data))
    return run_demo(annotations=str(changed), splits="train=0.7,val=0.3", num_shards="2")


@pytest.mark.parametrize("page", HERE)
def test_the_commands_of_a_page(
    page: str,
    demo_output: Output,
    tuesday: Output,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tf: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    todo = [block for block in blocks(page) if not all(elsewhere(page, command) for command in block)]
    if (name := Path(page).stem) in FORMATS:
        write_format(tmp_path, FORMATS[name], todo[0][0])
    else:
        write_default(tmp_path, page)
    if not any("maskbeam run " in command for block in todo for command in block):
        (tmp_path / "records").symlink_to(demo_output.folder)
    for day, output in (("monday", demo_output), ("tuesday", tuesday)):
        for name in (day, f"records-{day}"):
            (tmp_path / name).symlink_to(output.folder)
    for block in todo:
        if all(re.match(r"(\.venv/bin/)?maskbeam ", command) or elsewhere(page, command) for command in block):
            for command in block:
                if not elsewhere(page, command):
                    run_here(command, page, tmp_path, tf, capfd)
        else:
            run_by_a_shell(block, tmp_path)


# ------------------------------------------------------------------------------------------------ that none is left out


@pytest.mark.parametrize("name", NAMES)
def test_each_format_has_a_command(name: str) -> None:
    commands = [command for block in blocks(f"docs/formats/{name}.md") for command in block]
    assert commands
    for command in commands:
        assert ("--format " + name in command) or name == COCO


@pytest.mark.parametrize("page", ELSEWHERE)
def test_the_tests_elsewhere_are_there_and_have_something_to_run(page: str) -> None:
    commands = [command for block in blocks(page) for command in block]
    for beginning, test in ELSEWHERE[page].items():
        assert any(command.startswith(beginning) for command in commands), beginning
        file, _, name = test.partition("::")
        text = (CHECKOUT / file).read_text()
        if name:
            assert re.search(rf"^def {name}\(", text, re.MULTILINE), test
        else:  # `make` targets
            assert re.search(rf"^{beginning}$", text, re.MULTILINE), test


RUNS_ELSEWHERE = [
    pytest.param(command, id=f"{page} {command[:40]}")
    for page in ELSEWHERE
    for block in blocks(page)
    for command in block
    if command.startswith("maskbeam run ") and elsewhere(page, command)
]


@pytest.mark.parametrize("command", RUNS_ELSEWHERE)
def test_options_are_known_of_what_is_run_elsewhere(command: str) -> None:
    """Where a test can't have all of them, as the address of a cluster."""
    parser = Parser(allow_abbrev=False)
    add_options(parser)
    parsed, left = parser.parse_known_args(shlex.split(command)[2:])
    options_from(parsed)
    assert left or "s3://" in command
    check_beam_options(left)


def test_all_languages_of_blocks_are_known() -> None:
    """So that no command hides in a block of another name."""
    languages = {language for page in PAGES for language in re.findall(r"^```(\w+)$", text_of(page), re.MULTILINE)}
    assert languages <= {"sh", "text", "python", "json", "yaml"}
