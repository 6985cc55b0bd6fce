"""Of a run: its settings, where its data set lies, what is asked of Dataflow, and what makes the data set good enough.

Plain functions, that need neither Airflow nor maskbeam; maskbeam_tasks.py makes tasks of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from fractions import Fraction
from typing import Any

MANIFEST, SUCCESS, REJECTS = "manifest.json", "_SUCCESS", "rejects.jsonl"
REQUIRED = ("annotations", "images", "output")
OPTIONAL: Mapping[str, Any] = {"options": {}, "min_records": 1, "max_reject_fraction": 0.05}


def merge_settings(
    variable: str, stored: Mapping[str, Any], given: Mapping[str, Any], required: Iterable[str], optional: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a run: what was given to it, else what the Variable of that name has, else the default.

    None is as good as not given. Raises `ValueError` with a message for people.
    """
    required = list(required)
    known = [*required, *optional]
    settings = {**_present(stored), **_present(given)}
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise ValueError(f"there is no setting {', '.join(unknown)}, expected none but {', '.join(known)}")
    missing = [name for name in required if not settings.get(name)]
    if missing:
        raise ValueError(f"{', '.join(missing)}: not set; the Variable {variable}, a JSON object, is where to")
    return {**optional, **settings}


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def folder_name(logical_date: datetime | None, run_after: datetime) -> str:
    """The name of a run's folder, such as 20260131T040000: its logical date, so that all tries of it write to one place.

    A run that somebody or an asset has triggered may have none; then it is the time when it was triggered.
    """
    when = (logical_date or run_after).astimezone(timezone.utc)
    return when.strftime("%Y%m%dT%H%M%S") + (f"{when.microsecond:06d}" if when.microsecond else "")


def job_options(settings: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The options of a run's job. With `resume`, a second try keeps the shards that the first has finished."""
    output = f"{settings['output'].rstrip('/')}/{folder}"
    ours = {"annotations": settings["annotations"], "images": settings["images"], "output": output, "resume": True}
    return {**_present(settings["options"]), **ours}


def launch_body(template: str, environment: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What is posted to `flexTemplates:launch`, where all parameters are texts. The job's name is the folder's."""
    parameters = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}
    name = "maskbeam-" + options["output"].rpartition("/")[2].lower()
    launch = {"jobName": name, "containerSpecGcsPath": template, "parameters": parameters, "environment": dict(environment)}
    return {"launchParameter": launch}


def is_same(given: Any, written: Any) -> bool:
    """Whether an option has the value that a manifest has of it; texts are as `maskbeam run` reads them, "" is the default."""
    if given in ("", written):
        return True
    if isinstance(written, bool):
        return str(given).lower() == str(written).lower()
    if isinstance(written, int | float):
        try:
            return float(given) == written
        except ValueError:
            return False
    return str(given) == str(written)


def find_problems(
    manifest: Mapping[str, Any], options: Mapping[str, Any], min_records: int, max_reject_fraction: float
) -> list[str]:
    """What speaks against a data set, in words for people. `options` are those of the job that should have made it."""
    written = manifest["options"]
    problems = [
        f"its manifest is of another job, with {name}={written[name]}, expected {name}={value}"
        for name, value in options.items()
        if name in written and not is_same(value, written[name])
    ]
    records = manifest["images"]["written"]
    if records < min_records:
        problems.append(f"it has {records:,} records, expected at least {min_records:,} (min_records)")
    for kind in ("image", "annotation"):
        read, rejected = manifest[f"{kind}s"]["read"], manifest[f"{kind}s"]["rejected"]
        if rejected > Fraction(str(max_reject_fraction)) * read:
            reasons = ", ".join(f"{count:,} {code}" for code, count in manifest["reasons"][kind].items())
            problems.append(
                f"{rejected:,} of {read:,} {kind}s were rejected ({rejected / read:.1%}), expected at most "
                f"{max_reject_fraction:.1%} (max_reject_fraction); not written: {reasons}; see {REJECTS} there"
            )
    return problems
