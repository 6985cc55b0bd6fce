"""Runs in Airflow's environment: what is in the DAG folder, or runs of a DAG by `dag.test()`. See test_airflow.py.

    python run_dags.py ANSWER                             the DAGs of the folder
    python run_dags.py ANSWER DAG '[RUN, …]' [ENDPOINT]   its runs, one after the other; ENDPOINT is Dataflow's

A RUN is {"logical_date": …, "conf": …}. The answer is a JSON file; what Airflow logs goes where the caller says.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import httplib2
from airflow import settings
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.providers.google.cloud.hooks.dataflow import DataflowHook
from googleapiclient.discovery import build


def read_bag() -> BundleDagBag:
    folder = Path(settings.DAGS_FOLDER)
    return BundleDagBag(folder, bundle_path=folder, bundle_name="dags-folder")


def describe(bag: BundleDagBag) -> dict[str, Any]:
    return {
        "errors": bag.import_errors,
        "warnings": bag.captured_warnings,
        "dags": {
            name: {
                "tasks": dag.task_ids,
                "downstream": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
                "retries": sorted({task.retries for task in dag.tasks}),
                "depends_on_past": any(task.depends_on_past for task in dag.tasks),
                "catchup": dag.catchup,
            }
            for name, dag in bag.dags.items()
        },
        "imported": sorted({name.partition(".")[0] for name in sys.modules}),
    }


def run(bag: BundleDagBag, dag_id: str, runs: list[dict[str, Any]], endpoint: str | None) -> list[dict[str, Any]]:
    dag, found = bag.dags[dag_id], []
    if endpoint:
        DataflowHook.get_conn = lambda _: build(
            "dataflow", "v1b3", http=httplib2.Http(), static_discovery=True, client_options={"api_endpoint": endpoint}
        )
        dag.get_task("run_on_dataflow").poll_sleep = 0.2
    for one in runs:
        date = one["logical_date"]
        ended = dag.test(logical_date=date and datetime.fromisoformat(date), run_conf=one.get("conf"))
        tasks = {task.task_id: [str(task.state), task.try_number] for task in ended.get_task_instances()}
        found.append({"state": str(ended.state), "run_after": ended.run_after.isoformat(), "tasks": tasks})
    return found


def main(answer: str, dag_id: str | None = None, runs: str = "[]", endpoint: str | None = None) -> None:
    bag = read_bag()
    Path(answer).write_text(json.dumps(run(bag, dag_id, json.loads(runs), endpoint) if dag_id else describe(bag)))


if __name__ == "__main__":
    main(*sys.argv[1:])
