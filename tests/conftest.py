"""What the tests share: where the real data is, and how a run is made."""

from __future__ import annotations

from pathlib import Path

import pytest

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """Real data sets beside the checkout; tests that need them are skipped where there are none."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"there is no real data at {REAL_DATA}")
    return REAL_DATA
