"""`python run_hypothesis.py PARSER FOLDER EXAMPLES`: hypothesis on one parser, in a process of its own; see `test_fuzz.py`.

The same examples each time, unless FUZZ_AT_RANDOM is set. The seed is written; FUZZ_SEED gives one.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import inputs
from guard import Guard
from hypothesis import HealthCheck, Phase, given, seed, settings
from strategies import STRATEGIES

AT_ONCE = 10_000  # examples; hypothesis remembers all that it has tried, half a gigabyte of it
EVERY = 20
"""Of the images that were accepted, so many-eth are kept for TensorFlow to read."""


def main(name: str, folder: Path, examples: int) -> None:
    inputs.use_folder(folder)
    guard = Guard(folder)
    attempt = inputs.PARSERS[name].attempt
    kept = folder / "accepted"
    kept.mkdir()
    accepted = 0

    @settings(
        max_examples=min(examples, AT_ONCE),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(arguments=STRATEGIES[name])
    def one(arguments: tuple[Any, ...]) -> None:
        nonlocal accepted
        guard.attempt(attempt, arguments)
        while inputs.accepted_images:
            image = inputs.accepted_images.pop()
            if accepted % EVERY == 0:
                (kept / f"{accepted}_{image.height}_{image.width}.{image.format}").write_bytes(image.data)
            accepted += 1

    first = int(os.environ.get("FUZZ_SEED", random.randrange(2**32) if "FUZZ_AT_RANDOM" in os.environ else 0))
    for number in range(first, first + -(-examples // AT_ONCE)):
        print(f"FUZZ_SEED={number}", flush=True)
        seed(number)(one)()
    guard.write_figures()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
