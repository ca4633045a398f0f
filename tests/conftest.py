"""What every test may ask for: the shared data sets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes says how busy the machine is, not whether the code is right.
settings.register_profile("emberfleet", deadline=None)
settings.load_profile("emberfleet")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets that the repository does not carry; skips where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EMBERFLEET_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: set EMBERFLEET_TEST_DATA to the folder that holds mnist/")
    return folder
