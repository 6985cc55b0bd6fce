"""Runs a graph that was staged for Dataflow: `python run_staged_graph.py pipeline.pb`, with what this Python has installed.

The steps run in this process, in place of the container that the graph names for them; their code comes from its packages.
"""

from __future__ import annotations

import sys
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

graph = beam_runner_api_pb2.Pipeline.FromString(Path(sys.argv[1]).read_bytes())
for environment in graph.components.environments.values():
    environment.CopyFrom(EmbeddedPythonEnvironment.default().to_runner_api(None))
FnApiRunner().run_via_runner_api(graph, PipelineOptions([])).wait_until_finish()

import beam_pipeline  # noqa: E402 - whether the steps can do without is what is to be seen

print(beam_pipeline.__file__)
