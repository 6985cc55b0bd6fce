"""Pages that have all in themselves: the report, and what `show` and `compare` write. Their templates are in `resources/`."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from PIL import Image

RESOURCES = files("beam_pipeline") / "resources"


def resource(name: str) -> str:
    """The text of a file in `resources/`."""
    return (RESOURCES / name).read_text(encoding="utf-8")


def make_page(template: str, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any) -> bytes:
    """HTML in UTF-8, from the name of a template. What is put in is text, unless it says that it is markup."""
    environment = Environment(
        loader=FunctionLoader(resource), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters or {}
    return environment.get_template(template).render(**values).encode()


def jpeg_source(picture: Image.Image, quality: int) -> str:
    """A picture for `src`, as a JPEG in full colour, or outlines would be blurred."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
