"""The engines themselves, below `.environments/engines`: Flink and Spark from Maven Central, Prism as a Go module.

    python tests/engines/engines.py

fetches them all. Everything is fetched by the ordinary client, so its settings decide where from, and compared with what is
pinned here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = HERE.parents[1] / ".environments" / "engines"
FETCH_SECONDS = 900

JOB_SERVERS = {
    "flink": "org.apache.beam.runners.flink.FlinkJobServerDriver",
    "spark": "org.apache.beam.runners.spark.SparkJobServerDriver",
}
LIBRARIES = {
    "flink": "dcdeff3a17d593ad695e7ee1bec0de448e340d2108a8b7e88aaa1b958c4f29d6",
    "spark": "a6113e1c85c0e0c35dcca601e0b28aea997a404e72bab7e05a9d044a470135d1",
}
"""`digest_of` what flink.xml and spark.xml resolve to."""
PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"
PRISM_MODULE = "h1:RsC61pHEvtySEHAURQyP/+CVOJm/hy5hewuG9JF0+Ow="
"""The checksum of the module that it is built from."""


class NotHereError(Exception):
    """An engine can't be had on this machine, and why."""


def _need(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise NotHereError(f"there is no {' and no '.join(missing)} on this machine")


def _fetch(tool: str, arguments: list[str], **variables: str) -> None:
    try:
        subprocess.run(
            [tool, *arguments], check=True, capture_output=True, text=True, timeout=FETCH_SECONDS, env={**os.environ, **variables}
        )
    except subprocess.CalledProcessError as error:
        said = [line for line in (error.stdout + error.stderr).splitlines() if line.strip()]
        raise NotHereError(f"{tool} can't fetch it: {said[0] if said else error}") from None
    except subprocess.TimeoutExpired as error:
        raise NotHereError(f"{tool} can't fetch it: {error}") from None


def digest_of(folder: Path) -> str:
    """The SHA-256 of the names and SHA-256s of a folder's files."""
    listed = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.glob("*.jar")))
    return hashlib.sha256(listed.encode()).hexdigest()


def job_server(name: str) -> Path:
    """A jar that starts Beam's job server for `flink` or `spark`; what it needs lies in `HOME / name / "jars"` beside it."""
    _need("java", "mvn")
    home = HOME / name
    jars, jar = home / "jars", home / "job-server.jar"
    if digest_of(jars) != LIBRARIES[name]:
        shutil.rmtree(home, ignore_errors=True)
        pom = str(HERE / f"{name}.xml")
        copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        _fetch("mvn", ["--batch-mode", "--quiet", "-Dstyle.color=never", "--file", pom, *copy])
        found = digest_of(jars)
        if found != LIBRARIES[name]:
            raise AssertionError(f"{jars}: expected {LIBRARIES[name]}, Maven has fetched {found}")
    with zipfile.ZipFile(jar, "w") as file:
        file.writestr("META-INF/MANIFEST.MF", manifest(JOB_SERVERS[name], [f"jars/{path.name}" for path in jars.glob("*.jar")]))
    return jar


def manifest(main_class: str, class_path: list[str]) -> str:
    """The manifest of a jar that has nothing else; a line takes 72 bytes and goes on after a space."""
    text = "Class-Path: " + " ".join(sorted(class_path))
    lines = [text[:72], *(" " + text[at : at + 71] for at in range(72, len(text), 71))]
    return "\n".join(["Manifest-Version: 1.0", f"Main-Class: {main_class}", *lines, ""])


def prism() -> Path:
    """The Prism binary."""
    _need("go")
    binary = HOME / "prism"
    if not binary.is_file():
        _fetch("go", ["install", PRISM], GOBIN=str(HOME))
    built = subprocess.run(["go", "version", "-m", str(binary)], check=True, capture_output=True, text=True).stdout
    if PRISM_MODULE not in built:
        raise AssertionError(f"{binary}: expected {PRISM_MODULE}, it is built from another module:\n{built}")
    return binary


def fetch(name: str) -> Path:
    """The job server's jar, or the binary, of an engine. Raises `NotHereError`."""
    return prism() if name == "prism" else job_server(name)


if __name__ == "__main__":
    with ThreadPoolExecutor(3) as pool:
        for name, future in [(name, pool.submit(fetch, name)) for name in ("prism", "flink", "spark")]:
            try:
                print(future.result())
            except NotHereError as reason:
                print(f"{name} is left out: {reason}", file=sys.stderr)
