r"""Builds the Dataflow flex template, and launches jobs from it, by gcloud. In a checkout, with nothing installed but gcloud:

    python -m deploy.flex_template build --project=P --region=R --repository=maskbeam --template=gs://BUCKET/maskbeam.json
    python -m deploy.flex_template launch --project=P --region=R --template=gs://BUCKET/maskbeam.json \
        --temp_location=gs://BUCKET/temp --annotations=gs://… --images=gs://… --output=gs://… [any option of maskbeam run]

With --dry_run the commands are printed and nothing is done. What follows a -- is for gcloud, as in `-- --max-workers=50`.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from beam_pipeline import __version__
from beam_pipeline.flex_template import parameters
from beam_pipeline.options import Parser, RunOptions, add_options, job_name, options_from, typed

CHECKOUT = Path(__file__).resolve().parents[1]
DELIMITERS = "~|;#!@%"


def on_gcs(text: str) -> str:
    """A path in a bucket of Google's. Raises `ValueError` with a message for the user."""
    if not text.removeprefix("gs://").strip("/") or not text.startswith("gs://"):
        raise ValueError(f"expected gs://BUCKET/…, found {text!r}")
    return text


def make_parser() -> Parser:
    """The parser of both commands."""
    parser = Parser(prog="deploy.flex_template", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="build|launch", required=True)
    build = commands.add_parser("build", help="the image and the template", allow_abbrev=False)
    launch = commands.add_parser("launch", help="a job from the template", allow_abbrev=False)
    for command in (build, launch):
        command.add_argument("--project", required=True, metavar="ID", help="the project that pays")
        command.add_argument("--region", required=True, metavar="REGION", help="as in us-central1, best where the buckets are")
        command.add_argument("--template", required=True, metavar="PATH", type=typed(on_gcs), help="gs://BUCKET/….json")
        command.add_argument("--dry_run", action="store_true", help="print the commands, and do nothing")
    build.add_argument("--repository", required=True, metavar="NAME", help="of Artifact Registry, in the same region")
    build.add_argument("--tag", metavar="TAG", help="of the image (default: the version and the commit)")
    launch.add_argument("--temp_location", required=True, metavar="FOLDER", type=typed(on_gcs), help="for what is temporary")
    name = "no other job that runs has it (default: %(default)s)"
    launch.add_argument("--job_name", default="maskbeam", metavar="NAME", type=typed(job_name), help=name)
    add_options(launch)
    return parser


def for_gcloud(pairs: dict[str, str]) -> str:
    """Names and values as one argument of gcloud's, which takes them apart at commas, unless another delimiter is named.

    See `gcloud topic escaping`. Raises `ValueError` where the values leave no delimiter.
    """
    given = [f"{name}={value}" for name, value in pairs.items()]
    for delimiter in DELIMITERS:
        if delimiter not in "".join(given):
            return f"^{delimiter}^{delimiter.join(given)}"
    raise ValueError(f"expected that one of {DELIMITERS} is in none of the options, to keep them apart for gcloud")


def version_tag() -> str:
    """The version and the commit, so that no image takes the place of another that a job still runs with."""
    describe = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return f"{__version__}-{commit}" if commit else __version__


def build_command(parsed: argparse.Namespace) -> list[str]:
    """Cloud Build does it all: see cloudbuild.yaml."""
    image = f"{parsed.region}-docker.pkg.dev/{parsed.project}/{parsed.repository}/maskbeam:{parsed.tag or version_tag()}"
    config, where = str(CHECKOUT / "deploy" / "cloudbuild.yaml"), [f"--project={parsed.project}", f"--region={parsed.region}"]
    substitutions = for_gcloud({"_IMAGE": image, "_TEMPLATE": parsed.template})
    return ["gcloud", "builds", "submit", str(CHECKOUT), f"--config={config}", *where, f"--substitutions={substitutions}"]


def changed_parameters(options: RunOptions) -> dict[str, str]:
    """The template's parameters that are not the defaults, as text. Raises `ValueError` where an option is of no use there."""
    changed = {one.name: getattr(options, one.name) for one in fields(RunOptions) if getattr(options, one.name) != one.default}
    for name in changed.keys() - {one.name for one in parameters()}:
        raise ValueError(f"argument --{name}: it is no parameter of the template")
    for name in ("annotations", "images", "output"):
        if "://" not in changed[name]:
            raise ValueError(f"argument --{name}: expected a path that Dataflow's workers can see, found {changed[name]!r}")
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in changed.items()}


def launch_command(parsed: argparse.Namespace) -> list[str]:
    """The launch of one job. Raises `ValueError` as `changed_parameters` does."""
    given = for_gcloud(changed_parameters(options_from(parsed)))
    return [
        *("gcloud", "dataflow", "flex-template", "run", parsed.job_name),
        *(f"--project={parsed.project}", f"--region={parsed.region}", f"--template-file-gcs-location={parsed.template}"),
        *(f"--temp-location={parsed.temp_location}", f"--parameters={given}"),
    ]


def main(arguments: Sequence[str]) -> int:
    """Prints the command, and runs it. The exit status is gcloud's, or 2 where an option is wrong."""
    ours, gcloud = list(arguments), []
    if "--" in ours:
        at = ours.index("--")
        ours, gcloud = ours[:at], ours[at + 1 :]
    parser = make_parser()
    parsed, unknown = parser.parse_known_args(ours)
    if unknown:
        parser.error(f"unknown option {unknown[0].partition('=')[0]}: gcloud's own follow a --")
    try:
        command = (build_command if parsed.command == "build" else launch_command)(parsed) + gcloud
    except ValueError as error:
        parser.error(str(error))
    print(shlex.join(command), flush=True)
    if parsed.dry_run:
        return 0
    try:
        return subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        parser.error("gcloud is not here: https://cloud.google.com/sdk/docs/install")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
