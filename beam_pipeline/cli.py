"""The command line. Nothing heavy is imported before it is known what is wanted."""

from __future__ import annotations

import argparse
import atexit
import io
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NoReturn

from beam_pipeline import __version__
from beam_pipeline.options import Parser, add_options, options_from, positive, positive_int, typed
from beam_pipeline.trainer_bases import BASES, MODEL_GARDEN
from transforms import memory

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

    config = commands.add_parser(
        "trainer-config",
        help="the configuration that trains Mask R-CNN on a data set",
        description="Prints or writes a trainer's configuration for a data set that maskbeam run has written.",
        allow_abbrev=False,
    )
    given = typed(_given)
    config.add_argument("output", metavar="OUTPUT", type=given, help="a folder that maskbeam run has written")
    bases = [*BASES, MODEL_GARDEN]
    kind = config.add_mutually_exclusive_group(required=True)
    kind.add_argument("--base", choices=bases, metavar="BASE", help="one of " + ", ".join(bases))
    kind.add_argument(
        "--update", type=given, metavar="FILE", help="a Faster R-CNN pipeline.config of your own; prints what changes"
    )
    config.add_argument("--config", type=given, metavar="FILE", help="write the configuration to this file")
    config.add_argument("--train_split", type=given, metavar="NAME", help="the split to train on (default: train, or the first)")
    evaluated = "the split to evaluate on (default: val, or what is trained on)"
    config.add_argument("--eval_split", type=given, metavar="NAME", help=evaluated)
    config.add_argument("--fine_tune_checkpoint", type=given, metavar="PATH", help="where training starts from")
    whole, number = typed(positive_int), typed(positive)
    depth, layers = "--mask_prediction_conv_depth", "--mask_prediction_num_conv_layers"
    config.add_argument(
        depth, type=typed(_depth), metavar="N", help="default: 0, by the number of classes; with --update, the file's own"
    )
    config.add_argument(layers, type=whole, metavar="N", help="default: the base's; with --update, the file's own")
    steps = "default: 200000, or in the Model Garden by the number of images; with --update, the file's own"
    config.add_argument("--num_steps", type=whole, metavar="N", help=steps)
    config.add_argument("--batch_size", type=whole, metavar="N", help="default: 1; with --update, the file's own")
    memory = "memory of the shuffle buffer (default: 1000; with --update, the file's own)"
    config.add_argument("--shuffle_mb", type=number, metavar="MB", help=memory)

    export = commands.add_parser(
        "export",
        help="a data set as COCO annotation files and image files",
        description="Writes what a data set's records hold as annotations and images that other tools read.",
        allow_abbrev=False,
    )
    export.add_argument("data_set", metavar="OUTPUT", type=given, help="a folder that maskbeam run has written")
    export.add_argument("--to", required=True, choices=("coco",), help="coco: run lengths, boxes and classes as COCO has them")
    export.add_argument(
        "--output", required=True, type=given, metavar="FOLDER", help="where to: a new folder, or an earlier export"
    )
    export.add_argument("--split", type=given, metavar="NAME,…", help="only these splits (default: all)")
    export.add_argument("--no_images", action="store_true", help="annotation files only")

    compare = commands.add_parser(
        "compare",
        help="two data sets side by side: what was added, removed, changed",
        description="Says in what two data sets differ. Exit status: 0 if the data is the same, 1 if not, 2 if it can't be told.",
        allow_abbrev=False,
    )
    compare.add_argument("before", metavar="BEFORE", type=given, help="a folder that maskbeam run has written")
    compare.add_argument("after", metavar="AFTER", type=given, help="another")
    compare.add_argument("--output", type=typed(_page), metavar="FILE.html", help="write it as a page, too")

    show = commands.add_parser(
        "show",
        help="pictures of what is in the records",
        description="Draws masks, boxes and names over some of a data set's images: on the terminal, as a PNG, or as a page.",
        allow_abbrev=False,
    )
    show.add_argument("data_set", metavar="OUTPUT", type=given, help="a folder that maskbeam run has written")
    show.add_argument("--split", type=given, metavar="NAME", help="only this split (default: all)")
    named = "only images that have one of these categories, which alone are coloured then"
    show.add_argument("--category", type=given, nargs="+", default=(), metavar="NAME", help=named)
    ids = "these images and no others; where images were cut into tiles, an image's tiles"
    show.add_argument("--image_id", type=int, nargs="+", default=(), metavar="ID", help=ids)
    show.add_argument("--limit", type=whole, metavar="N", help="at most so many images (default: 12; with --image_id, all)")
    show.add_argument("--columns", type=whole, metavar="N", help="pictures beside each other (default: 3, or as many as fit)")
    show.add_argument("--size", type=whole, default=480, metavar="PX", help="a picture's longer side (default: %(default)s)")
    file = "write a .png or, as one page without a network, a .html (default: inline, or OUTPUT-pictures.png in this folder)"
    show.add_argument("--output", type=given, metavar="FILE", help=file)
    ways = "pictures on the terminal: as it is known to show them (auto), in one of these ways anyway, or not at all"
    show.add_argument("--inline", choices=("auto", "kitty", "iterm", "sixel", "none"), default="auto", help=ways)

    demo = commands.add_parser(
        "demo",
        help="draw a small data set, run and verify it",
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
        if parsed.command == "trainer-config":
            return _trainer_config(parsed)
        if parsed.command == "export":
            from beam_pipeline.export import export_command

            return export_command(parsed.data_set, parsed.output, parsed.split, not parsed.no_images)
        if parsed.command == "compare":
            from beam_pipeline.compare import compare_command

            return compare_command(parsed.before, parsed.after, parsed.output)
        if parsed.command == "show":
            from beam_pipeline.show import Choices, show_command

            which = parsed.split, tuple(parsed.category), tuple(parsed.image_id), parsed.limit
            return show_command(parsed.data_set, parsed.output, parsed.inline, Choices(*which, parsed.columns, parsed.size))
        from beam_pipeline.demo import demo_command

        return demo_command(parsed.folder)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if "KeyboardInterrupt" in str(error):  # a runner has wrapped it
            return _interrupted()
        message, status = explain(error)
        verbose = getattr(parsed, "verbose", None)  # which not every command has
        if verbose:
            traceback.print_exc()
        elif verbose is not None and status == 1:
            message += " (--verbose shows more)"
        print(f"maskbeam: {message}", file=sys.stderr)
        return status


def command() -> NoReturn:
    """Runs the command that this process was started for."""
    end(main())


def end(status: int) -> NoReturn:
    """Ends the process, and waits for no thread.

    `sys.exit` does: after a job had failed on Flink, and the reason was said, a process was seen to stay for ever, among the
    threads of what had talked to the engine.
    """
    atexit._run_exitfuncs()  # engines that were started for the job are stopped there
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except OSError as error:  # nobody reads it, or the disk behind it is full
            os.write(2, f"maskbeam: what it prints could not be written: {error}\n".encode())
            status = status or 1
    os._exit(status)


def _depth(text: str) -> int:
    return 0 if text == "0" else positive_int(text)


def _given(text: str) -> str:
    if not text:
        raise ValueError("expected a name, found nothing")
    return text


def _page(text: str) -> str:
    if not text.endswith(".html"):
        raise ValueError(f"expected a file name that ends in .html, found {text!r}")
    return text


def _trainer_config(parsed: argparse.Namespace) -> int:
    from beam_pipeline.trainer_config import Choices, config_command

    choices = Choices(
        parsed.fine_tune_checkpoint,
        parsed.mask_prediction_conv_depth,
        parsed.mask_prediction_num_conv_layers,
        parsed.num_steps,
        parsed.batch_size,
        parsed.shuffle_mb,
    )
    splits = parsed.train_split, parsed.eval_split
    return config_command(parsed.output, parsed.base, parsed.update, parsed.config, splits, choices)


def _interrupted() -> int:
    from beam_pipeline.interrupts import message

    print(f"\n{message()}", file=sys.stderr)
    return 130


def _run(parsed: argparse.Namespace, left: Sequence[str]) -> int:
    began = time.monotonic()
    options = options_from(parsed)
    memory.tune()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start threads for matrices, of which there are none here
    from beam_pipeline.interrupts import interruptible
    from beam_pipeline.profile import profiling

    with interruptible(), profiling() if options.profile else nullcontext() as profile:
        from beam_pipeline.run import run, summary

        outcome = run(options, left)
    said = [summary(options, outcome, time.monotonic() - began), *(profile.lines() if profile else ())]
    try:
        print(*said, sep="\n", flush=True)
    except OSError as error:  # nobody reads it, or the disk behind it is full
        sys.stdout = None
        print(f"maskbeam: {options.output} is complete; the summary could not be printed: {error}", file=sys.stderr)
    return 0


_JAVA_FRAME = re.compile(r"\.(java|scala):\d+\)$|^\s*\.\.\. \d+ more$", re.MULTILINE)


def explain(error: BaseException) -> tuple[str, int]:
    """One line for the user, and the exit status: 2 where the input is at fault, 1 where the job has failed.

    Runners with workers of their own hand an exception on as text, somewhere within the text of another.
    """
    from beam_pipeline.dataflow import LostSightError
    from transforms.records import InputError

    text = str(error)
    inner = re.findall(r"InputError: (.*?)(?: \[while running|\n|\\n|$)", text)
    if isinstance(error, InputError) or inner:
        message = inner[-1] if inner else text.split(" [while running", maxsplit=1)[0]
        return message, 2
    before = text.split(" [while running", maxsplit=1)[0]
    lines = [line.strip() for line in before.splitlines() if re.search(r"\w", line) and not _JAVA_FRAME.search(line)]
    java = _JAVA_FRAME.search(text) and "Traceback (most recent call last)" not in text
    said = lines[0 if java else -1] if lines else "without a message"  # Python says it last, Java first
    kind = "" if type(error) in (RuntimeError, LostSightError) else f"{type(error).__name__}: "  # which says nothing by itself
    return f"the job failed: {kind}{said}", 1


if __name__ == "__main__":
    command()
