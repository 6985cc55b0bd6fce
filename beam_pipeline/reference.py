"""The parts of the documentation that derive from the code: `python -m beam_pipeline.reference` writes them to docs/."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

from beam_pipeline.options import GROUPS, RunOptions, about
from transforms.records import Fix, ReasonCode

DOCS = Path(__file__).resolve().parents[1] / "docs"


def options_page() -> str:
    """docs/options.md."""
    lines = [
        "# Options of `maskbeam run`",
        "",
        "Any option of Apache Beam can be given too; without `--runner` the job runs on this machine.",
    ]
    for group in GROUPS:
        lines += ["", f"## {group}", "", "| option | default | meaning |", "|---|---|---|"]
        for one in fields(RunOptions):
            said = about(one)
            if said.group != group:
                continue
            default = "required" if one.default is MISSING else "off" if one.default is False else str(one.default or "–")
            values = said.metavar or ", ".join(said.choices or ())
            name = f"`--{one.name}{' ' + values if values else ''}`".replace("|", "\\|")
            lines.append(f"| {name} | {default} | {said.help} |")
    return "\n".join(lines) + "\n"


def reason_codes_page() -> str:
    """docs/reason_codes.md."""
    lines = [
        "# Reason codes",
        "",
        "Every image and annotation that is not in the records is in `rejects.jsonl`, a JSON object a line with `kind`",
        "(image or annotation), `image_id`, `annotation_id`, `reason` and `message`. An image that is rejected takes its",
        "annotations with it, under the same reason. What was dropped because you asked for it is listed too, and counted",
        "apart.",
        "",
        "| code | what it means |",
        "|---|---|",
        *(f"| `{code.name}` | {code.value} |" for code in ReasonCode),
        "",
        "A file that can't be used as a whole ends the job with exit status 2 and a message that begins with `JSON_INVALID`:",
        "it is cut off, is no JSON, nests too deeply, has a number of thousands of digits, or lacks one of the lists.",
        "",
        "## What is put right",
        "",
        "Counted in `statistics.json` under `fixes`:",
        "",
        "| name | what it counts |",
        "|---|---|",
        *(f"| `{fix.name}` | {fix.value} |" for fix in Fix),
    ]
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {"options.md": options_page, "reason_codes.md": reason_codes_page}


def main() -> None:
    """Writes the pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
