"""No input makes a parser crash, hang for 5 seconds or take 1 GiB: hypothesis and libFuzzer on each.

`make test-fuzz`: 10,000 examples of hypothesis for each parser, always the same. `make fuzz`: more, at random, and libFuzzer
for a while, by FUZZ_EXAMPLES, FUZZ_AT_RANDOM and FUZZ_SECONDS.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inputs import ACCEPTED, PARSERS

HERE = Path(__file__).parent
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "10000"))
SECONDS = int(os.environ.get("FUZZ_SECONDS", "0"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by Linux's /proc")
Record = Callable[[str, object], None]


def run(folder: Path, *command: object) -> str:
    """What a Python process writes; fails with the end of that, and the input at hand, if it does not end well."""
    log = folder / "log.txt"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
        "PYTHONWARNINGS": "ignore",
    }
    with log.open("wb") as file:
        done = subprocess.run([sys.executable, *map(str, command)], stdout=file, stderr=file, env=environment, check=False)
    text = log.read_text(encoding="utf-8", errors="replace")
    if done.returncode:
        journal = folder / "journal.txt"
        noted = f"The last input, as noted in {journal}:\n{journal.read_text()[:2000]}" if journal.exists() else ""
        pytest.fail(f"ended with {done.returncode}\n{text[-8000:]}\n{noted}", pytrace=False)
    return text


@pytest.mark.parametrize("name", PARSERS)
def test_hypothesis(name: str, tmp_path: Path, record_property: Record, request: pytest.FixtureRequest) -> None:
    run(tmp_path, HERE / "run_hypothesis.py", name, tmp_path, EXAMPLES)
    figures = json.loads((tmp_path / "figures.json").read_text())
    outcomes = figures["outcomes"]
    tried = sum(outcomes.values())
    assert tried >= EXAMPLES
    assert outcomes[ACCEPTED] > EXAMPLES / 50, "hardly anything is sound, so that little is compared"
    if name == "images":
        read_with_tensorflow(tmp_path / "accepted", request.getfixturevalue("tf"))
    counted = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items(), key=lambda one: -one[1]))
    most = f"{figures['seconds']:.2f} s and {figures['megabytes']} MB at most for one"
    record_property("fuzzed", (f"{name}, by hypothesis", f"{tried:,} inputs: {counted}; no crash; {most}"))


def read_with_tensorflow(folder: Path, tf: Any) -> None:
    files = list(folder.iterdir())
    assert files
    for path in files:
        height, width = map(int, path.stem.split("_")[1:])
        image = tf.io.decode_image(path.read_bytes(), expand_animations=False)
        assert image.shape[:2] == (height, width), path


@pytest.mark.skipif(not SECONDS, reason="FUZZ_SECONDS is not set")
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed, or not made for this Python")
@pytest.mark.parametrize("name", PARSERS)
def test_libfuzzer(name: str, tmp_path: Path, record_property: Record) -> None:
    text = run(tmp_path, HERE / "atheris_targets.py", name, tmp_path, f"-max_total_time={SECONDS}")
    done = re.search(r"Done (\d+) runs in (\d+) second", text)
    assert done, text[-2000:]
    assert int(done[1]) > 10 * SECONDS
    record_property("fuzzed", (f"{name}, by libFuzzer", f"{int(done[1]):,} inputs in {done[2]} s; no crash"))


BREAKERS = {
    "a hang in C that holds the lock": ("sum(range(10**12))", "Timeout (0:00:0"),
    "a crash": ("ctypes.string_at(0)", "Segmentation fault"),
    "much memory at once": ("bytes(1 << 31)", "MemoryError"),
    "much memory where the system lets it": (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); bytearray(range(256)) * (5 << 20)",
        "one input took 1",
    ),
    "an exception": ("1 / 0", "ZeroDivisionError"),
}


@pytest.mark.parametrize("breaks", BREAKERS)
def test_what_the_guard_is_there_for(breaks: str, tmp_path: Path) -> None:
    statement, said = BREAKERS[breaks]
    code = f"""
import ctypes, faulthandler, sys
from pathlib import Path
import guard
faulthandler.enable()
guard.MAX_SECONDS = {2 if "hang" in breaks else 60}
one = guard.Guard(Path(sys.argv[1]))
def attempt(value):
    if value == 2:
        {statement}
    return "fine"
for value in (1, 2, 3):
    one.attempt(attempt, (value,))
"""
    with pytest.raises(pytest.fail.Exception) as failed:
        run(tmp_path, "-c", code, tmp_path)
    assert said in str(failed.value)
    assert str(failed.value).endswith("\n(2,)")


def test_libfuzzer_reads_the_seeds_as_inputs_of_the_parsers(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import inputs, seeds
inputs.use_folder(Path(sys.argv[1]))
for name, parser in inputs.PARSERS.items():
    outcomes = [parser.attempt(*parser.from_bytes(seed)) for seed in seeds.corpus(name)]
    print(name, len(set(outcomes)), inputs.ACCEPTED in outcomes, sep=":")
"""
    for line in run(tmp_path, "-c", code, tmp_path).splitlines():
        name, outcomes, accepted = line.split(":")
        assert name in PARSERS
        assert int(outcomes) >= 2
        assert accepted == "True", name
