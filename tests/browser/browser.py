"""A real browser to look at our pages with: Chromium, driven by Playwright in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from environments import LeftOutError, python_of

DRIVER = Path(__file__).resolve().parent / "drive.py"
SCREENSHOTS = DRIVER.parents[2] / "build" / "screenshots"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCHEMES = ("light", "dark")
DESKTOP, PHONE = 1280, 390
"""Widths in pixels."""


class Seen(NamedTuple):
    """What became of a page: messages on the console, errors and dialogs; what else it asked the network for; the value of the
    script that was run there; by how many pixels the page is wider than the screen.
    """

    messages: list[str]
    requests: list[str]
    value: Any
    overflow: int


class Browser:
    """A browser that runs, for one page after another, each in a fresh context."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def look(
        self,
        page: Path,
        width: int = DESKTOP,
        scheme: str = "light",
        script: str = "",
        actions: Sequence[Sequence[Any]] = (),
        javascript: bool = True,
        media: str = "screen",
        screenshot: str = "",
    ) -> Seen:
        """Opens a file. `actions` are methods of Playwright's `Page` with their arguments, `script` is evaluated after them.

        A `screenshot` of the whole page is kept below build/screenshots under this name.
        """
        order = {"width": width, "scheme": scheme, "script": script, "actions": actions, "javascript": javascript, "media": media}
        if screenshot:
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        picture = str(SCREENSHOTS / f"{screenshot}-{width}-{scheme}.png") if screenshot else ""
        return Seen(**self._ask({**order, "url": page.resolve().as_uri(), "screenshot": picture}))

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"failed": "it has ended"}
        if "failed" in found:
            raise RuntimeError(f"the browser: {found['failed']}")
        return found


def find_chromium() -> str:
    """The path of Chromium, which is installed first where this may be done. Raises `LeftOutError` where it can't be had."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
            done = subprocess.run(["apt-get", "-q", *command], capture_output=True, text=True, check=False)
            if done.returncode:
                raise LeftOutError(f"there is no Chromium, and apt-get can't install it: {(done.stderr or done.stdout)[-200:]}")
        found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise LeftOutError("there is no Chromium here, and only root may install it: apt-get install chromium")
    return found


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser. Raises `LeftOutError` where it can't be had."""
    command = [python_of("browser"), str(DRIVER), find_chromium()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        browser = Browser(process)
        try:
            browser.answer()
            yield browser
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
