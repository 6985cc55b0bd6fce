"""The command line. Nothing heavy is imported before it is known what is wanted."""

from __future__ import annotations

import argparse
import io
import re
import sys
import time
from collections.abc import Sequence

from beam_pipeline import __version__
from beam_pipeline.options import Parser, add_options, options_from

RUN_EXAMPLE = """\
example:
  maskbeam run --annotations instances.json --images photos/ --output records/ --splits train=0.9,val=0.1

Any option of Apache Beam can follow; without --runner the job runs on this machine.
"""


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="maskbeam", description="Instance-segmentation data, ready for training.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"maskbeam {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run",
        help="annotations and images to sharded TFRecords",
        usage="maskbeam run --annotations PATH --images FOLDER --output FOLDER [OPTION …]",
        description="Turns annotations and images into sharded TFRecords with a mask for every instance.",
        epilog=RUN_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(run)

    verify = commands.add_parser(
        "verify",
        help="read every record back as the trainers do",
        description="Reads every record back as both trainers' decoders do; exit status 1 if a promise is broken.",
        allow_abbrev=False,
    )
    verify.add_argument("output", metavar="OUTPUT", help="a folder that maskbeam run has written")
    verify.add_argument("--coco", metavar="FILE", help="compare masks, boxes and classes with this COCO file")

    demo = commands.add_parser(
        "demo",
        help="make a small data set and do all of the above with it",
        description="Draws a small data set with faults in it, turns it into records and verifies them.",
        allow_abbrev=False,
    )
    demo.add_argument("--folder", default="maskbeam-demo", metavar="FOLDER", help="where to (default: %(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit status: 0 done, 1 the job failed or a promise is broken, 2 it could not be started."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode
    parser = make_parser()
    parsed, left = parser.parse_known_args(arguments)
    if left and parsed.command != "run":
        parser.error(f"unknown argument {left[0]}")
    try:
        if parsed.command == "run":
            return _run(parsed, left)
        if parsed.command == "verify":
            from beam_pipeline.verify import verify_command

            return verify_command(parsed.output, parsed.coco)
        from beam_pipeline.demo import demo_command

        return demo_command(parsed.folder)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if "KeyboardInterrupt" in str(error):  # a runner has wrapped it
            return _interrupted()
        if getattr(parsed, "verbose", False):
            raise
        message, status = explain(error)
        print(f"maskbeam: {message}", file=sys.stderr)
        return status


def _interrupted() -> int:
    print("\nmaskbeam: interrupted; the same command again begins anew", file=sys.stderr)
    return 130


def _run(parsed: argparse.Namespace, left: Sequence[str]) -> int:
    began = time.monotonic()
    options = options_from(parsed)
    from beam_pipeline.run import run, summary

    manifest = run(options, left)
    print(summary(options, manifest, time.monotonic() - began))
    return 0


def explain(error: BaseException) -> tuple[str, int]:
    """One line for the user, and the exit status: 2 where the input is at fault, 1 where the job has failed.

    Runners with workers of their own hand an exception on as text, somewhere within the text of another.
    """
    from transforms.records import InputError

    text = str(error)
    inner = re.findall(r"InputError: (.*?)(?: \[while running|\n|\\n|$)", text)
    if isinstance(error, InputError) or inner:
        message = inner[-1] if inner else text.split(" [while running", maxsplit=1)[0]
        return message, 2
    last = [line for line in text.split(" [while running", maxsplit=1)[0].splitlines() if line.strip()]
    said = last[-1].strip() if last else "without a message"
    return f"the job failed: {type(error).__name__}: {said} (--verbose shows more)", 1


if __name__ == "__main__":
    sys.exit(main())
