"""The tasks that both DAGs have: what a run is to do, and the check before downstream tasks."""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import ObjectStoragePath, Param, Variable, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException
from maskbeam_dataset import MANIFEST, OPTIONAL, REQUIRED, SUCCESS, find_problems, folder_name, job_options, merge_settings


def params() -> dict[str, Param]:
    """What can be given to a single run when it is triggered, in place of what the Variable has."""
    described = {
        "annotations": ("string", "the annotation file, or a pattern that several match"),
        "images": ("string", "the folder that file names in the annotations are relative to"),
        "output": ("string", "the folder for the data sets, which gets a folder for each run"),
        "options": ("object", "other options of the job, by name"),
        "min_records": ("integer", "downstream tasks need at least so many records"),
        "max_reject_fraction": ("number", "and at most this share of rejected images, or of annotations"),
    }
    return {
        name: Param(None, type=["null", kind], description=f"{text} (left empty: as in the Variable)")
        for name, (kind, text) in described.items()
    }


@task(multiple_outputs=True)
def plan_run(variable: str, required: list[str], optional: dict[str, Any]) -> dict[str, Any]:
    """The settings of this run, with the `options` of its job. Texts are Jinja templates: paths may have a date in them."""
    context = get_current_context()
    run = context["dag_run"]
    stored = Variable.get(variable, default={}, deserialize_json=True)
    try:
        settings = merge_settings(variable, stored, context["params"], [*REQUIRED, *required], {**OPTIONAL, **optional})
    except ValueError as error:
        raise AirflowFailException(str(error)) from None
    settings = context["task"].render_template(settings, context)
    return {**settings, "options": job_options(settings, folder_name(run.logical_date, run.run_after))}


@task
def check_dataset(
    options: dict[str, Any], min_records: int, max_reject_fraction: float, conn_id: str | None = None
) -> dict[str, Any]:
    """Fails, once and for all, unless the data set is complete, of this run's job, and good enough; gives its ledger."""
    output = options["output"]
    folder = ObjectStoragePath(output, conn_id=conn_id)
    if not (folder / SUCCESS).exists():
        raise AirflowFailException(f"{output}: there is no {SUCCESS}, so the data set is not complete")
    manifest = json.loads((folder / MANIFEST).read_text())
    problems = find_problems(manifest, options, min_records, max_reject_fraction)
    if problems:
        raise AirflowFailException(f"{output}: {'; '.join(problems)}")
    return {kind: manifest[kind] for kind in ("images", "annotations")}
