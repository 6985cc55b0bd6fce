"""A data set on a schedule, made on the machine of an Airflow worker, and checked before downstream tasks.

README.md beside this file says what to set.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone

from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from maskbeam_tasks import check_dataset, params, plan_run

with DAG(
    "maskbeam_local",
    description="Annotations and images to TFRecords, on this machine",
    schedule=os.environ.get("MASKBEAM_SCHEDULE", "@daily"),
    start_date=datetime(2020, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,  # one job fills a machine
    default_args={"retries": 2},
    params=params(),
    tags=["maskbeam"],
):
    plan = plan_run("maskbeam_local", required=[], optional={})
    job = BeamRunPythonPipelineOperator(
        task_id="run_here",
        runner="FnApiRunner",
        py_interpreter=os.environ.get("MASKBEAM_PYTHON", "python3"),
        py_options=["-m", "beam_pipeline.cli"],
        py_file="run",  # python3 -m beam_pipeline.cli run --runner=FnApiRunner --annotations=…
        pipeline_options=plan["options"],
    )
    check = check_dataset(plan["options"], plan["min_records"], plan["max_reject_fraction"])
    job >> check >> EmptyOperator(task_id="downstream")
