"""Where the real data lie that tests compare with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real survey files: MMU_REAL_DATA, or ../shared/data beside the checkout. Skips where there is none."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("MMU_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MMU_REAL_DATA to the folder that holds raw/ and mmu_v1/")
    return folder
