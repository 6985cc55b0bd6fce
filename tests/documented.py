"""The pages of the documentation, and the commands in them."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    str(path.relative_to(CHECKOUT)) for folder in (".", "docs/**", "deploy/**") for path in CHECKOUT.glob(f"{folder}/*.md")
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}\S.*\n)+")


def text_of(page: str) -> str:
    return (CHECKOUT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[list[str]]:
    """The commands of each shell block, in order: fenced ones that name no other language, and indented ones."""
    text = text_of(page)
    found = [(match.start(), match[2]) for match in FENCED.finditer(text) if match[1] in ("", "sh", "bash", "console")]
    without = FENCED.sub(lambda match: re.sub(r"[^\n]", "-", match[0]), text)  # every other place stays where it is
    found += [(match.start(), match[0]) for match in INDENTED.finditer(without)]
    return [[line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()] for _, block in sorted(found)]


def command_on(page: str, beginning: str, **placeholders: str) -> str:
    """The one command of a page that begins like this, with its PLACEHOLDERS filled in."""
    (found,) = [command for block in blocks(page) for command in block if command.startswith(beginning)]
    for name, value in placeholders.items():
        found, times = re.subn(rf"\b{name}\b", value, found)
        assert times, f"{page} has no {name} in {found}"
    return found
