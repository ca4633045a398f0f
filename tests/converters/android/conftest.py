from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from emberfleet.converters.android.aar import build_aar
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.bundle import TFLITE_PART, Bundle
from emberfleet.core.errors import DeviceError
from tests.converters.android.building import skip_unless_it_builds
from tests.runner.bundles import KEY
from tests.runtime.stripes import trained

CREATED = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def bundle() -> bytes:
    """A small trained network, signed."""
    return build_bundle(trained(), 3, KEY, name="stripes", created=CREATED)


@pytest.fixture(scope="session")
def tflite(bundle: bytes) -> bytes:
    """The .tflite in it."""
    return Bundle.open(bundle, [KEY.verify_key]).part(TFLITE_PART)


@pytest.fixture(scope="session")
def aar(bundle: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Android library around it."""
    skip_unless_it_builds()
    path = tmp_path_factory.mktemp("aar") / "stripes.aar"
    path.write_bytes(build_aar(bundle, KEY.verify_key))
    return path


@pytest.fixture(scope="session")
def opencl_library() -> str:
    """The OpenCL library that pyopencl uses."""
    from emberfleet.engine.opencl.device import open_device

    try:
        open_device()
    except DeviceError as error:
        pytest.skip(str(error))
    maps = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split(maxsplit=5)[5] for line in maps if "libOpenCL" in line)
