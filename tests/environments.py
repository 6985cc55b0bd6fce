"""What can't live beside our own packages, each in an environment of its own below `.environments`: the real trainers, for one.

    python tests/environments.py [NAME …]

installs those named, or all; what can't be had here is left out, with a line that says so.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import NamedTuple, ParamSpec

import pytest

ROOT = Path(__file__).resolve().parents[1] / ".environments"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
"""NAME.txt for each, and NAME_no_deps.txt for what is installed without what it says that it needs."""
PINNED = ROOT.parent / "deploy" / "requirements.txt"
"""What the image for Dataflow has."""
Given = ParamSpec("Given")


class Environment(NamedTuple):
    """What a table calls it, and the minor versions of Python that it installs on, the best first."""

    title: str
    pythons: tuple[str, ...]


TRAINERS = {
    "object_detection": Environment("Object Detection API, TF 2.12", ("3.11", "3.10", "3.9")),
    "object_detection_tf1": Environment("Object Detection API, TF 1.15", ("3.7",)),
    "model_garden": Environment("Model Garden, TF 2.20", ("3.11", "3.12", "3.10", "3.13")),
}
ENVIRONMENTS = {
    **TRAINERS,
    "airflow": Environment("Airflow 3.3", ("3.11", "3.12", "3.13")),
    "site": Environment("Material for MkDocs 9", ("3.11", "3.12", "3.13", "3.10")),
    "browser": Environment("Playwright 1.65", ("3.11", "3.12", "3.10", "3.13")),
    "datumaro": Environment("Datumaro 1.13", ("3.11", "3.12", "3.10")),
    "tfdv": Environment("TensorFlow Data Validation 1.16", ("3.11", "3.10", "3.9")),
}


class LeftOutError(pytest.skip.Exception):
    """An environment can't be had here, and why. A test that does not catch it is skipped."""


def find_python(versions: tuple[str, ...]) -> str | None:
    """A Python of one of these minor versions: on the path, or one of pyenv's."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for version in versions:
        candidates = [shutil.which(f"python{version}"), *sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python"))]
        for path in filter(None, candidates):
            answer = subprocess.run(
                [path, "-c", "import ensurepip, sys; print(*sys.version_info[:2], sep='.')"],
                capture_output=True,
                text=True,
                check=False,
            )
            if answer.stdout.strip() == version:
                return path
    return None


def _fetch(*command: str) -> None:
    """Runs a command that installs by uv. Raises `LeftOutError` where it reaches no registry, but for CI, which has one."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stdout + done.stderr
        unreachable = re.search("error sending request.*", said)  # uv's; what a registry answers reads otherwise
        if unreachable and "CI" not in os.environ:
            raise LeftOutError(f"no package registry can be reached: {unreachable[0]}")
        raise RuntimeError(f"{' '.join(command)} failed:\n{said}")


def install(python: Path, *arguments: str) -> None:
    """`pip install` into the environment of a Python, by uv: the same in a tenth of the time. Raises `LeftOutError`."""
    _fetch(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), *arguments)


def one_at_a_time(make: Callable[Given, str]) -> Callable[Given, str]:
    """Who wants an environment that another process makes waits until it is there."""

    @wraps(make)
    def waiting(*arguments: Given.args, **options: Given.kwargs) -> str:
        ROOT.mkdir(exist_ok=True)
        with (ROOT / f".{'-'.join((make.__name__, *map(str, arguments)))}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return make(*arguments, **options)

    return waiting


@one_at_a_time
def python_of(name: str) -> str:
    """The Python of an environment, which is made and filled first if need be. Raises `LeftOutError`."""
    home = ROOT / name
    python = home / "bin" / "python"
    lists = [path for path in (REQUIREMENTS / f"{name}.txt", REQUIREMENTS / f"{name}_no_deps.txt") if path.is_file()]
    wanted = "".join(file.read_text() for file in lists)
    stamp = home / "installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return str(python)
    title, pythons = ENVIRONMENTS[name]
    base = find_python(pythons)
    if base is None:
        raise LeftOutError(f"{title} wants a Python {' or '.join(pythons)}, and there is none")
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([base, "-m", "venv", str(home)], check=True)
    install(python, "--upgrade", "pip", "setuptools<81", "wheel")
    for file in lists:
        no_deps = ["--no-deps"] if file.stem.endswith("_no_deps") else []
        install(python, *no_deps, "--requirement", str(file))
    stamp.write_text(wanted)
    return str(python)


def sdist(folder: Path) -> Path:
    """Our own source distribution, built into a folder. Raises `LeftOutError`."""
    _fetch(sys.executable, "-m", "build", "--installer", "uv", "--sdist", "--outdir", str(folder), str(ROOT.parent))
    (built,) = folder.glob("*.tar.gz")
    return built


@one_at_a_time
def python_with_maskbeam() -> str:
    """The Python of an environment that has our source distribution and what it needs, and nothing of the checkout.

    Raises `LeftOutError`.
    """
    home = ROOT / "maskbeam"
    python, stamp = home / "bin" / "python", home / "installed"
    digest = hashlib.sha256()
    parts = ("setup.py", "deploy/requirements.txt", "beam_pipeline/**/*", "transforms/**/*")
    for path in sorted(path for part in parts for path in ROOT.parent.glob(part)):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.read_bytes())
    if stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return str(python)
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    with tempfile.TemporaryDirectory() as folder:
        built = str(sdist(Path(folder)))
        image = ["--constraint", str(PINNED)] if sys.version_info[:2] == (3, 11) else []
        # The version may be the same.
        install(python, *image, "--reinstall-package", "maskbeam", "setuptools", built)
    stamp.write_text(digest.hexdigest())
    return str(python)


if __name__ == "__main__":
    for environment in sys.argv[1:] or ENVIRONMENTS:
        try:
            print(python_of(environment))
        except LeftOutError as reason:
            sys.exit(f"left out: {reason}")
