"""Tries one library for real and says on stdout, as one line of JSON, what it did.

Run as a child process, ``python -m emberfleet.runtime.probes NAME``, because a driver that does not suit the
processor ends the whole process, and `emberfleet doctor` must live to tell.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib import resources
from importlib.metadata import version
from typing import Any

from emberfleet.core.errors import DeviceError

Facts = dict[str, Any]
"""What a probe found; ``failure`` is there when something did not work."""


def probe_numpy() -> Facts:
    """Multiply two matrices; name the BLAS that did it."""
    import numpy as np

    ones = np.ones((64, 64), np.float32)
    if float((ones @ ones).sum()) != 64**3:
        return {"version": np.__version__, "failure": "a matrix product came out wrong"}
    try:
        build = np.show_config(mode="dicts")  # type: ignore[call-overload, unused-ignore]
        blas = build["Build Dependencies"]["blas"]
        name = f"{blas['name']} {blas.get('version', '')}".strip()
    except (TypeError, KeyError):
        name = "unknown"
    return {"version": np.__version__, "blas": name}


def probe_signatures() -> Facts:
    """Sign and verify a message with Ed25519."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    key.public_key().verify(key.sign(b"doctor"), b"doctor")
    return {"version": version("cryptography")}


def probe_hpke() -> Facts:
    """Seal a message to a public key and open it again (RFC 9180)."""
    from emberfleet.core.sealing import SealingKey, library_suite, open_sealed, seal

    key = SealingKey.generate()
    sealed = seal(key.public, b"doctor", b"probe", b"")
    facts: Facts = {"version": version("cryptography"), "composed": library_suite() is None}
    if open_sealed(key, sealed, b"probe", b"") != b"doctor":
        facts["failure"] = "a sealed message did not open to what was sealed"
    return facts


def probe_tflite() -> Facts:
    """Run a model of one RELU with ai_edge_litert or, where that is missing, tflite_runtime."""
    import numpy as np

    try:
        from ai_edge_litert.interpreter import Interpreter

        library = "ai-edge-litert"
    except ImportError:
        from tflite_runtime.interpreter import Interpreter

        library = "tflite-runtime"
    model = resources.files("emberfleet.runtime").joinpath("probe.tflite").read_bytes()
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    x = np.array([[-2.0, -0.5, 0.5, 2.0]], np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    facts: Facts = {"library": library, "version": version(library)}
    if not np.array_equal(y, np.maximum(x, 0)):
        facts["failure"] = f"a RELU of {x.tolist()} gave {y.tolist()}"
    return facts


def probe_opencl() -> Facts:
    """List the devices of every OpenCL platform, without running anything on them."""
    import pyopencl as cl

    from emberfleet.engine.opencl.limits import family_and_lanes

    facts: Facts = {"version": version("pyopencl"), "devices": []}
    try:
        platforms = cl.get_platforms()
    except cl.LogicError:  # the loader's PLATFORM_NOT_FOUND_KHR
        platforms = []
    for p, platform in enumerate(platforms):
        for d, device in enumerate(platform.get_devices()):
            family, lanes = family_and_lanes(device)
            facts["devices"].append(
                {
                    "index": [p, d],
                    "name": device.name.strip(),
                    "platform": platform.name.strip(),
                    "driver": platform.version.strip(),
                    "kind": cl.device_type.to_string(device.type),
                    "compute_units": device.max_compute_units,
                    "family": family,
                    "lanes": lanes,
                }
            )
    return facts


def probe_opencl_device(platform_index: str, device_index: str) -> Facts:
    """Build a kernel for one device, run it and check what it computed.

    The build is a fresh one, past all caches, so that a missing linker shows.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(POCL_CACHE_DIR=folder, PYOPENCL_NO_CACHE="1")
        return _try_device(int(platform_index), int(device_index))


def _try_device(platform_index: int, device_index: int) -> Facts:
    import numpy as np
    import pyopencl as cl

    from emberfleet.engine.opencl.pocl_cpu import mend_unknown_cpu

    platform = cl.get_platforms()[platform_index]
    device = platform.get_devices()[device_index]
    mended = mend_unknown_cpu(device, platform.version)
    context = cl.Context([device])
    queue = cl.CommandQueue(context)
    source = resources.files("emberfleet.runtime").joinpath("probe.cl").read_text()
    kernel = cl.Kernel(cl.Program(context, source).build(), "scale_and_add_f32")
    x = np.arange(256, dtype=np.float32)
    buffer = cl.Buffer(context, cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR, hostbuf=x)
    kernel(queue, (x.size,), None, buffer, np.int32(x.size))
    y = np.empty_like(x)
    cl.enqueue_copy(queue, y, buffer)
    queue.finish()
    facts: Facts = {"mended": mended}
    if not np.array_equal(y, x * 2 + 1):
        facts["failure"] = "a kernel computed wrong numbers"
    return facts


def probe_backend() -> Facts:
    """Open the backend used where none is asked for; ``why`` when it is not OpenCL."""
    from emberfleet.engine import selection

    try:
        backend = selection.choose_backend("opencl")
        device = getattr(backend, "device", None)
        return {"name": backend.name} | ({"device": device.name} if device is not None else {})
    except DeviceError as error:
        return {"name": selection.choose_backend("auto").name, "why": str(error)}


PROBES: dict[str, Callable[..., Facts]] = {
    "numpy": probe_numpy,
    "signatures": probe_signatures,
    "hpke": probe_hpke,
    "tflite": probe_tflite,
    "opencl": probe_opencl,
    "opencl-device": probe_opencl_device,
    "backend": probe_backend,
}


def main(name: str, *arguments: str) -> None:
    """Run one probe; an error becomes its ``failure``, and ``missing`` names a library that is not there."""
    try:
        facts = PROBES[name](*arguments)
    except ModuleNotFoundError as error:
        facts = {"failure": str(error), "missing": error.name}
    except Exception as error:  # whatever a foreign library throws is what the doctor reports
        facts = {"failure": f"{type(error).__name__}: {error}"}
    sys.stdout.write("\n" + json.dumps(facts) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
