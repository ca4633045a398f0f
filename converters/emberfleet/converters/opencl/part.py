"""Writing and reading the OpenCL part: files under ``opencl/`` in a bundle.

======================  ==========================================================================
``network.json``        the int8 operations in order, with shapes, scales and zero points
``weights.safetensors``  weights, biases and fixed-point multipliers, ``output/part`` each
``kernels/*.cl``        the kernel sources that int8 inference needs
``plan.json``           the names above, the sha256 of every kernel, the tile families
======================  ==========================================================================

The format is specified in docs/formats.md, section OpenCL part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

from emberfleet.core.errors import FormatError
from emberfleet.core.integer import IntegerNetwork
from emberfleet.core.integer_codec import decode_network, encode_network
from emberfleet.core.tensors import decode_tensors, encode_tensors

FOLDER: Final = "opencl/"
NETWORK_FILE: Final = f"{FOLDER}network.json"
WEIGHTS_FILE: Final = f"{FOLDER}weights.safetensors"
PLAN_FILE: Final = f"{FOLDER}plan.json"
KERNELS_FOLDER: Final = f"{FOLDER}kernels/"
PLAN_FORMAT: Final = 1
TILE_FAMILIES: Final = ("cpu", "gpu")
PRELUDE: Final = "prelude.cl"
"""Compiled before every other source."""


def write_opencl_part(network: IntegerNetwork) -> dict[str, bytes]:
    """The files of the OpenCL part by their names in the bundle."""
    text, arrays = encode_network(network)
    kernels = int8_kernel_sources()
    plan = {
        "format": PLAN_FORMAT,
        "network": NETWORK_FILE.removeprefix(FOLDER),
        "weights": WEIGHTS_FILE.removeprefix(FOLDER),
        "tile_families": list(TILE_FAMILIES),
        "kernels": {name: hashlib.sha256(source).hexdigest() for name, source in kernels.items()},
    }
    return {
        NETWORK_FILE: text.encode(),
        WEIGHTS_FILE: encode_tensors(arrays),
        PLAN_FILE: json.dumps(plan, indent=1).encode(),
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


def int8_kernel_sources() -> dict[str, bytes]:
    """The kernel sources of int8 inference by file name: the prelude and those with int8 kernels."""
    folder = resources.files("emberfleet.engine.opencl")
    sources = {
        entry.name: entry.read_bytes()
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".cl")
    }
    return {name: source for name, source in sources.items() if name == PRELUDE or b"_s8(" in source}


def _part(parts: Mapping[str, bytes], name: str) -> bytes:
    if name not in parts:
        raise FormatError(f"opencl part: '{name}' is missing")
    return parts[name]


def _read_plan(data: bytes) -> dict[str, Any]:
    try:
        plan = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError("opencl part: plan.json is not JSON") from error
    if not isinstance(plan, dict) or plan.get("format") != PLAN_FORMAT:
        raise FormatError(f"opencl part: expected a plan of format {PLAN_FORMAT}")
    kernels = plan.get("kernels")
    texts = [
        plan.get("network"),
        plan.get("weights"),
        *(kernels.values() if isinstance(kernels, dict) else []),
    ]
    if not isinstance(kernels, dict) or not all(isinstance(text, str) for text in texts):
        raise FormatError("opencl part: a plan names the network, the weights and the kernels' digests")
    return plan
