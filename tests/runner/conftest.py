from __future__ import annotations

from pathlib import Path

import pytest

from emberfleet.core.errors import DeviceError
from tests.runner.building import SANITIZED, build
from tests.runner.bundles import signed_bundle
from tests.runner.ember import Ember


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner as gcc builds it."""
    return build(tmp_path_factory.mktemp("runner"), "gcc", "libember.so", "ember-run")


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ember-run with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return build(tmp_path_factory.mktemp("sanitized"), "gcc", "ember-run", extra=SANITIZED) / "ember-run"


@pytest.fixture(scope="session")
def ember(built: Path) -> Ember:
    """The library."""
    return Ember(built / "libember.so")


@pytest.fixture(scope="session")
def bundle() -> bytes:
    """A signed bundle with int8 and float32 plans."""
    return signed_bundle()


@pytest.fixture(scope="session")
def opencl_library() -> str:
    """The OpenCL library that pyopencl uses, its PoCL able to build for this processor."""
    from emberfleet.engine.opencl.device import open_device
    from emberfleet.engine.opencl.pocl_cpu import mend_unknown_cpu

    try:
        (device,) = open_device().context.devices
    except DeviceError as error:
        pytest.skip(str(error))
    devices = device.platform.get_devices()
    for each in devices:
        mend_unknown_cpu(each, str(device.platform.version), devices)
    maps = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split(maxsplit=5)[5] for line in maps if "libOpenCL" in line)
