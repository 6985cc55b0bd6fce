"""The real trainers, each in an environment of its own below `.trainers`: they fight over protobuf and numpy.

    python tests/trainers/venvs.py [NAME …]

installs those named, or all; what there is no Python for is left out, with a line that says so.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2] / ".trainers"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements"


class Trainer(NamedTuple):
    """What a table calls it, and the minor versions of Python that it installs on, the best first."""

    title: str
    pythons: tuple[str, ...]


TRAINERS = {
    "object_detection": Trainer("Object Detection API, TF 2.12", ("3.11", "3.10", "3.9")),
    "object_detection_tf1": Trainer("Object Detection API, TF 1.15", ("3.7",)),
    "model_garden": Trainer("Model Garden, TF 2.20", ("3.11", "3.12", "3.10", "3.13")),
}


class NoPythonError(Exception):
    """There is no Python for a trainer here."""


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


def python_of(name: str) -> str:
    """The Python of a trainer's environment, which is made and filled first if need be. Raises `NoPythonError`."""
    home = ROOT / name
    python = home / "bin" / "python"
    lists = [REQUIREMENTS / f"{name}.txt", REQUIREMENTS / f"{name}_no_deps.txt"]
    wanted = "".join(file.read_text() for file in lists)
    stamp = home / "installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return str(python)
    base = find_python(TRAINERS[name].pythons)
    if base is None:
        raise NoPythonError(f"{TRAINERS[name].title} wants a Python {' or '.join(TRAINERS[name].pythons)}, and there is none")
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([base, "-m", "venv", str(home)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", "pip", "setuptools<81", "wheel"], check=True)
    subprocess.run([*pip, "--requirement", str(lists[0])], check=True)
    subprocess.run([*pip, "--no-deps", "--requirement", str(lists[1])], check=True)
    stamp.write_text(wanted)
    return str(python)


if __name__ == "__main__":
    for trainer in sys.argv[1:] or TRAINERS:
        try:
            print(python_of(trainer))
        except NoPythonError as reason:
            print(f"left out: {reason}")
