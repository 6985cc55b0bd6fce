"""A data set on a schedule, made by Dataflow from the flex template, and checked before downstream tasks.

README.md beside this file says what to set.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator
from airflow.providers.google.cloud.sensors.gcs import GCSObjectExistenceSensor
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task
from maskbeam_dataset import SUCCESS, launch_body
from maskbeam_tasks import check_dataset, params, plan_run

CONNECTION = os.environ.get("MASKBEAM_GCP_CONN_ID", "google_cloud_default")


@task(multiple_outputs=True)
def make_request(template: str, environment: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """What is posted to Dataflow, and the bucket and the name of the marker to wait for."""
    output = urlsplit(options["output"])
    marker = f"{output.path.lstrip('/')}/{SUCCESS}"
    return {"body": launch_body(template, environment, options), "bucket": output.netloc, "marker": marker}


with DAG(
    "maskbeam_flex",
    description="Annotations and images to TFRecords, on Dataflow",
    schedule=os.environ.get("MASKBEAM_SCHEDULE", "@daily"),
    start_date=datetime(2020, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=4,
    default_args={"retries": 2},
    params=params(),
    tags=["maskbeam"],
):
    plan = plan_run("maskbeam_flex", required=["project", "region", "template"], optional={"environment": {}})
    request = make_request(plan["template"], plan["environment"], plan["options"])
    launch = DataflowStartFlexTemplateOperator(
        task_id="run_on_dataflow",
        project_id=plan["project"],
        location=plan["region"],
        body=request["body"],
        gcp_conn_id=CONNECTION,
        wait_until_finished=True,  # the deferrable form would wait for ever for a job that somebody has cancelled
    )
    marker = GCSObjectExistenceSensor(
        task_id="wait_for_success",
        bucket=request["bucket"],
        object=request["marker"],
        google_cloud_conn_id=CONNECTION,
        deferrable=True,
        poke_interval=30,
        timeout=timedelta(minutes=10).total_seconds(),  # the job is done: its marker is there, or won't come
    )
    check = check_dataset(plan["options"], plan["min_records"], plan["max_reject_fraction"], CONNECTION)
    launch >> marker >> check >> EmptyOperator(task_id="downstream")
