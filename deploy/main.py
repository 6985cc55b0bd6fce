"""What the flex template's launcher runs."""

import sys

from beam_pipeline.cli import end
from beam_pipeline.flex_template import launch

if __name__ == "__main__":
    end(launch(sys.argv[1:]))
