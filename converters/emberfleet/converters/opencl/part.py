"""Writing and reading the OpenCL part: files under ``opencl/`` in a bundle.

======================  ==========================================================================
``network.json``        the int8 operations in order, with shapes, scales and zero points
``weights.safetensors``  weights, biases and fixed-point multipliers, ``output/part`` each
``kernels/*.cl``        the kernel sources that int8 inference needs
``constants.bin``       the same weights and numbers as kernels read them
``plan.json``           the names above, the sha256 of every kernel, the launch plans
======================  ==========================================================================

This package reads the first two alone and makes its own launches, for the device at hand. The plans are
for hosts in other languages (`converters.opencl.plan`). The format is specified in docs/formats.md,
sections OpenCL part and Launch plans.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from emberfleet.core.arrays import Tensors
from emberfleet.core.errors import FormatError
from emberfleet.core.graph import Graph
from emberfleet.core.integer import IntegerNetwork
from emberfleet.core.integer_codec import decode_network, encode_network
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.tensors import decode_tensors, encode_tensors

FOLDER: Final = "opencl/"
NETWORK_FILE: Final = f"{FOLDER}network.json"
WEIGHTS_FILE: Final = f"{FOLDER}weights.safetensors"
PLAN_FILE: Final = f"{FOLDER}plan.json"
KERNELS_FOLDER: Final = f"{FOLDER}kernels/"
CONSTANTS_FILE: Final = f"{FOLDER}constants.bin"
PLAN_FORMAT: Final = 2
READABLE_FORMATS: Final = (1, 2)
"""Format 1 had no launch plans."""


def write_opencl_part(
    network: IntegerNetwork,
    preprocessing: Preprocessing | None = None,
    floating: tuple[Graph, Tensors] | None = None,
) -> dict[str, bytes]:
    """The files of the OpenCL part by their names in the bundle.

    Args:
        network: The int8 network.
        preprocessing: From pixels to its input; None: other hosts preprocess by themselves.
        floating: The float32 network up to its logits, and its tensors, to be planned too: its constants
            are four times as large as those of int8.
    """
    # What records is loaded by whoever writes a part, not by a device that opens a bundle.
    from emberfleet.converters.opencl.plan import Constants, record_float, record_integer
    from emberfleet.engine.opencl.device import PRELUDE

    text, arrays = encode_network(network)
    recordings = [*record_integer(network), *(record_float(*floating) if floating else ())]
    kernels = _kernel_sources({PRELUDE, *(name for found in recordings for name in found.sources)})
    constants = Constants()
    plan = {
        "format": PLAN_FORMAT,
        "network": NETWORK_FILE.removeprefix(FOLDER),
        "weights": WEIGHTS_FILE.removeprefix(FOLDER),
        "constants": CONSTANTS_FILE.removeprefix(FOLDER),
        "kernels": {name: hashlib.sha256(source).hexdigest() for name, source in kernels.items()},
        **({} if preprocessing is None else {"pixels": _pixels(preprocessing)}),
        "plans": [recording.to_json(constants) for recording in recordings],
    }
    return {
        NETWORK_FILE: text.encode(),
        WEIGHTS_FILE: encode_tensors(arrays),
        CONSTANTS_FILE: constants.to_bytes(),
        PLAN_FILE: json.dumps(plan, separators=(",", ":")).encode("ascii"),
        **{f"{KERNELS_FOLDER}{name}": source for name, source in kernels.items()},
    }


def read_opencl_part(parts: Mapping[str, bytes]) -> IntegerNetwork:
    """The int8 network of an OpenCL part, whose kernels are those that its plan names.

    Raises:
        FormatError: a file is missing or damaged, or a kernel is not the one of the plan.
    """
    plan = _read_plan(_part(parts, PLAN_FILE))
    for name, digest in plan["kernels"].items():
        if hashlib.sha256(_part(parts, f"{KERNELS_FOLDER}{name}")).hexdigest() != digest:
            raise FormatError(f"opencl part: kernel '{name}' is not the one that plan.json names")
    arrays = decode_tensors(_part(parts, FOLDER + plan["weights"]))
    return decode_network(_part(parts, FOLDER + plan["network"]), arrays)


def _kernel_sources(names: Iterable[str]) -> dict[str, bytes]:
    """Kernel sources by file name."""
    from emberfleet.engine.opencl.device import read_source

    return {f"{name}.cl": read_source(name).encode() for name in sorted(names)}


def _pixels(preprocessing: Preprocessing) -> dict[str, list[int]]:
    """``x = byte * scale + shift`` for each channel, as `Preprocessing.apply` computes it."""
    from emberfleet.converters.opencl.plan import float_bits

    scale, shift = preprocessing.factors
    return {"scale": float_bits(scale), "shift": float_bits(shift)}


def _part(parts: Mapping[str, bytes], name: str) -> bytes:
    if name not in parts:
        raise FormatError(f"opencl part: '{name}' is missing")
    return parts[name]


def _read_plan(data: bytes) -> dict[str, Any]:
    try:
        plan = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError("opencl part: plan.json is not JSON") from error
    if not isinstance(plan, dict) or plan.get("format") not in READABLE_FORMATS:
        raise FormatError(
            f"opencl part: expected a plan of format {PLAN_FORMAT}; a newer emberfleet may read it"
        )
    kernels = plan.get("kernels")
    texts = [
        plan.get("network"),
        plan.get("weights"),
        *(kernels.values() if isinstance(kernels, dict) else []),
    ]
    if not isinstance(kernels, dict) or not all(isinstance(text, str) for text in texts):
        raise FormatError("opencl part: a plan names the network, the weights and the kernels' digests")
    return plan
