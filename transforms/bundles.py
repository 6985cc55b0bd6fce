"""What a DoFn gives where a bundle ends, and no element is at hand whose window it could have."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows


def in_window(out: Any) -> Any:
    """An output as it has to be where a bundle ends."""
    if isinstance(out, beam.pvalue.TaggedOutput):
        return beam.pvalue.TaggedOutput(out.tag, GlobalWindows.windowed_value(out.value))
    return GlobalWindows.windowed_value(out)
