"""One thread a test process and no network: results do not depend on the machine's load."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("attar", deadline=None)  # how long an example takes is no law
settings.load_profile("attar")

_MIRROR = Path(os.environ.get("ATTAR_MIRROR") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture
def mirror() -> Path:
    """The offline mirror of data, with banking77: where ATTAR_MIRROR points, else ../shared/data beside the
    repository.
    """
    if not (_MIRROR / "banking77").is_dir():
        pytest.skip(f"needs the data set banking77, which is not in {_MIRROR} (set ATTAR_MIRROR)")
    return _MIRROR
