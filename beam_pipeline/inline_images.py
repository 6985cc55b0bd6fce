"""Pictures between the lines of a terminal, by the three ways that terminals know; each gives text to be printed."""

from __future__ import annotations

import base64
import io
import re
import shutil
import struct
from collections.abc import Mapping

import numpy as np
from PIL import Image

KITTY, ITERM, SIXEL = "kitty", "iterm", "sixel"
_KITTY_CHUNK = 4096  # characters; the protocol's most
_CELL_WIDTH = 8  # pixels of a character, where the terminal does not say


def way_of(environment: Mapping[str, str]) -> str | None:
    """Which way a terminal knows, by what it and those around it leave in the environment; None if that is not known.

    tmux and screen keep pictures from the terminal outside, whose variables are still there.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or term.startswith(("tmux", "screen")):
        return None
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return KITTY
    if program in ("iTerm.app", "WezTerm", "mintty") or environment.get("LC_TERMINAL") == "iTerm2":
        return ITERM
    return SIXEL if term.startswith(("foot", "mlterm", "contour", "yaft")) else None


def encoded(picture: Image.Image, way: str) -> str:
    """The escape sequence that shows a picture, `way` being one of the above."""
    if way == SIXEL:
        return _sixel(picture)
    file = io.BytesIO()
    picture.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    if way == ITERM:
        return f"\x1b]1337;File=inline=1;size={len(file.getvalue())};preserveAspectRatio=1:{data}\a"
    chunks = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
    more = [1] * (len(chunks) - 1) + [0]
    # a=T: send and show; f=100: a PNG; q=2: the terminal answers nothing, which would end up in the shell.
    heads = ["a=T,f=100,q=2,"] + [""] * (len(chunks) - 1)
    return "".join(f"\x1b_G{head}m={last};{chunk}\x1b\\" for head, last, chunk in zip(heads, more, chunks, strict=True))


def _sixel(picture: Image.Image) -> str:
    """The picture in 256 colours. Source: the VT330/VT340 Programmer Reference Manual, volume 2, chapter 14."""
    indexed = picture.quantize(256)
    pixels, palette = np.asarray(indexed), np.array(indexed.getpalette("RGB")).reshape(-1, 3)
    parts = [f'\x1bPq"1;1;{picture.width};{picture.height}']
    parts += [f"#{index};2;{';'.join(map(str, colour))}" for index, colour in enumerate(np.rint(palette / 2.55).astype(int))]
    for top in range(0, picture.height, 6):
        band = pixels[top : top + 6]
        bits = 1 << np.arange(len(band))
        rows = []
        for index in np.unique(band):
            columns = bytes((bits @ (band == index) + 63).astype(np.uint8)).decode()
            rows.append(f"#{index}" + re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", columns))
        parts.append("$".join(rows) + "-")
    return "".join(parts) + "\x1b\\"


def terminal_width() -> int:
    """Pixels from the terminal's left to its right."""
    columns = shutil.get_terminal_size().columns
    try:
        import fcntl
        import termios

        size = fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8))
    except (ImportError, OSError):  # another system; no terminal
        return columns * _CELL_WIDTH
    return int(struct.unpack("4H", size)[2]) or columns * _CELL_WIDTH
