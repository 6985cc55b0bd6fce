"""The figures of the fuzzers: shown at the end, and left in `build/fuzz.json`, where `make reliability` finds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FIGURES = Path(__file__).resolve().parents[2] / "build" / "fuzz.json"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = terminalreporter.getreports("passed")
    rows = dict(value for report in passed for key, value in report.user_properties if key == "fuzzed")
    if not rows:
        return
    terminalreporter.section("inputs tried")
    for tried, outcome in sorted(rows.items()):
        terminalreporter.line(f"{tried}: {outcome}")
    if not terminalreporter.getreports("failed"):
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
