"""`python atheris_targets.py PARSER FOLDER [libFuzzer's options]`: libFuzzer on one parser; see `test_fuzz.py`.

FOLDER is for what it needs: the corpus, which begins with the seeds, and the input that broke something. An input in a file is
tried again by giving the file, too.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["transforms", "PIL"]):
    import inputs
from guard import MAX_BYTES, MAX_SECONDS
from seeds import corpus

OWN_MEGABYTES = 400  # of the process, before any input


def main(name: str, folder: Path, options: list[str]) -> None:
    warnings.simplefilter("ignore")
    inputs.use_folder(folder)
    parser = inputs.PARSERS[name]
    seeds = folder / "corpus"
    seeds.mkdir(exist_ok=True)
    for number, seed in enumerate(corpus(name)):
        (seeds / f"seed{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        arguments = parser.from_bytes(data)
        if arguments is not None:
            parser.attempt(*arguments)
            inputs.accepted_images.clear()

    limits = [f"-timeout={MAX_SECONDS}", f"-rss_limit_mb={OWN_MEGABYTES + (MAX_BYTES >> 20)}", f"-artifact_prefix={folder}/"]
    where = [] if any(Path(option).is_file() for option in options) else [str(seeds)]
    atheris.Setup([sys.argv[0], *limits, *options, *where], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
