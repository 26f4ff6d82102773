"""Where the real data lie that tests compare with, and a Prefect home of their own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# Set before any test imports the flows. One for each test process: two first starts would race on one database.
os.environ["PREFECT_HOME"] = str(
    Path(tempfile.gettempdir(), f"mmu-tests-prefect-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}")
)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real survey files: MMU_REAL_DATA, or ../shared/data beside the checkout. Skips where there is none."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("MMU_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MMU_REAL_DATA to the folder that holds raw/ and mmu_v1/")
    return folder
