"""The Dataflow flex template: what its form asks for, from `RunOptions`, and what its launcher runs.

`deploy/` has its image, and what builds and launches it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from beam_pipeline.cli import main
from beam_pipeline.options import RunOptions, about

NAME = "maskbeam"
DESCRIPTION = "Instance-segmentation annotations and images to sharded TFRecords, with a mask for every instance."
LEFT_OUT = ("This machine",)
"""Groups of options that make no sense there."""
IMAGE_VARIABLE = "MASKBEAM_IMAGE"
"""In the image: the name that it was pushed under."""


def parameters() -> list[Field[Any]]:
    """The options that are parameters of the template."""
    return [one for one in fields(RunOptions) if about(one).group not in LEFT_OUT]


def parameter(one: Field[Any]) -> dict[str, Any]:
    """An option as a `ParameterMetadata` of the Dataflow API."""
    said, default = about(one), one.default
    found: dict[str, Any] = {
        "name": one.name,
        "label": one.name.replace("_mb", "_MB").replace("_", " ").capitalize(),
        "helpText": said.help,
        "groupName": said.group,
        "isOptional": default is not MISSING,
        "paramType": "BOOLEAN" if default is False else "ENUM" if said.choices else said.param_type,
    }
    if default not in (MISSING, None):
        found["defaultValue"] = str(default).lower() if default is False else str(default)
    if said.choices:
        found["enumOptions"] = [{"value": choice, "label": choice} for choice in said.choices]
    if said.regex:
        found["regexes"] = [f"^({said.regex})$"]
    return found


def metadata() -> dict[str, Any]:
    """`templates/flex/metadata.json`, a `TemplateMetadata` of the Dataflow API."""
    described = [parameter(one) for one in parameters()]
    return {"name": NAME, "description": DESCRIPTION, "parameters": described}


def image_spec(image: str = "REGION-docker.pkg.dev/PROJECT/REPOSITORY/maskbeam:TAG") -> dict[str, Any]:
    """`templates/flex/image_spec.json`, a `ContainerSpec` of the Dataflow API: the template as it lies in its bucket."""
    return {"image": image, "metadata": metadata(), "sdkInfo": {"language": "PYTHON"}}


def as_text(value: object) -> str:
    """JSON for people and machines."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def launch(arguments: Sequence[str]) -> int:
    """`maskbeam run` with the launcher's arguments; the workers get the image that this runs in, unless another is named."""
    image = os.environ.get(IMAGE_VARIABLE)
    named = any(argument.partition("=")[0] == "--sdk_container_image" for argument in arguments)
    workers = [f"--sdk_container_image={image}"] if image and not named else []
    return main(["run", *workers, *arguments])
