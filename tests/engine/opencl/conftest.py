from collections.abc import Iterator

import pytest

from emberfleet.core.errors import DeviceError
from emberfleet.engine.opencl.backend import OpenCLBackend
from emberfleet.engine.opencl.device import OpenCLDevice, open_device
from emberfleet.engine.opencl.limits import FAMILIES


@pytest.fixture(scope="session")
def device() -> OpenCLDevice:
    """The first OpenCL device; tests skip with the reason where there is none."""
    try:
        return open_device()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=FAMILIES)
def backend(request: pytest.FixtureRequest, device: OpenCLDevice) -> Iterator[OpenCLBackend]:
    """The OpenCL backend on that device, in each family."""
    backend = OpenCLBackend(device=device.in_family(request.param))
    yield backend
    assert backend.device.family == request.param, "a test made it fall back to the other family"
