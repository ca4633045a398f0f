import pytest

from emberfleet.core.errors import DeviceError
from emberfleet.engine.opencl.backend import OpenCLBackend
from emberfleet.engine.opencl.device import OpenCLDevice, open_device


@pytest.fixture(scope="session")
def device() -> OpenCLDevice:
    """The first OpenCL device; tests skip with the reason where there is none."""
    try:
        return open_device()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def backend(device: OpenCLDevice) -> OpenCLBackend:
    """The OpenCL backend on that device."""
    return OpenCLBackend(device=device)
