from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.errors import DeviceError
from emberfleet.engine.opencl.device import OpenCLDevice
from emberfleet.engine.opencl.launches import LaunchErrors


def test_an_error_of_the_driver_in_a_step_says_what_was_done(device: OpenCLDevice) -> None:
    import pyopencl as cl

    buffer = device.allocate(64, "a test")
    with pytest.raises(DeviceError, match=r"copying failed: .*INVALID_VALUE"), LaunchErrors("copying"):
        cl.enqueue_copy(device.queue, np.zeros(4), buffer, src_offset=1 << 20)


def test_an_error_of_ours_in_a_step_stays_what_it_is() -> None:
    with pytest.raises(KeyError), LaunchErrors("copying"):
        raise KeyError
