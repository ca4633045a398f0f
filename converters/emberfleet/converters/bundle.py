"""From a trained model to a signed bundle, and from a bundle back to the model.

=========================  =====================================================================
``graph.json``             the network as trained, batch norm and dropout included
``weights.safetensors``    its float32 parameters, running statistics and ranges
``model.tflite``           the int8 network for LiteRT and the TFLite runtime
``model_float.tflite``     the float32 network, where asked for
``opencl/``                the int8 network for OpenCL and numpy (`converters.opencl.part`)
=========================  =====================================================================

The int8 network in ``model.tflite`` and in ``opencl/`` is the one that `core.lowering.quantize`
gives for the graph and the weights: retraining on a device starts from what the device runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from emberfleet.converters.opencl.part import FOLDER, read_opencl_part, write_opencl_part
from emberfleet.core.arrays import Float32, Tensors
from emberfleet.core.bundle import GRAPH_PART, TFLITE_PART, WEIGHTS_PART, Bundle, encode_bundle
from emberfleet.core.errors import FormatError, ShapeError
from emberfleet.core.files import write_atomically
from emberfleet.core.graph import Graph, without_softmax
from emberfleet.core.integer import IntegerNetwork
from emberfleet.core.lowering import quantize
from emberfleet.core.manifest import Manifest, TensorContract
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.signing import SigningKey
from emberfleet.core.tensors import encode_tensors

if TYPE_CHECKING:
    from emberfleet.train.trained import TrainedModel

FLOAT_TFLITE_PART: Final = "model_float.tflite"


def build_bundle(
    trained: TrainedModel,
    version: int,
    key: SigningKey,
    path: str | Path | None = None,
    *,
    name: str = "model",
    plans: Mapping[str, tuple[str, ...]] | None = None,
    metrics: Mapping[str, float] | None = None,
    created: datetime | None = None,
    parent: str | None = None,
    float_tflite: bool = False,
    opencl_float: bool = False,
) -> bytes:
    """Convert a trained model for every backend, and sign it.

    Args:
        trained: A model whose ranges are known (trained quantized, or calibrated).
        version: 1 or more; devices take a newer one only.
        key: Signs the manifest.
        path: Where the file is written too, whole or not at all.
        name: What the model is called in its fleet.
        plans: Ordered tensor names by scope; None: head, the last fires, full.
        metrics: Measurements to state; None: the model's own figures.
        created: When; None: now.
        parent: Digest of the bundle this one was retrained from.
        float_tflite: Add the float32 .tflite, about as large as the weights.
        opencl_float: Add float32 launch plans to the OpenCL part: another copy of the weights.

    Raises:
        QuantError: the model has no ranges.
        ConversionError: a structure that a target cannot express.
    """
    from emberfleet.train.plans import retraining_plans

    graph = trained.graph
    network = quantize(graph, trained.tensors)
    parts = bundle_parts(
        graph, trained.tensors, trained.preprocessing, name, version, network,
        float_tflite=float_tflite, opencl_float=opencl_float,
    )  # fmt: skip
    if plans is None:
        plans = {scope: plan.tensors for scope, plan in retraining_plans(graph).items()}
    figures = trained.figures if metrics is None else metrics
    manifest = Manifest(
        model_name=name,
        model_version=version,
        created=(created or datetime.now(UTC)).isoformat(timespec="seconds"),
        labels=trained.classes,
        preprocessing=trained.preprocessing,
        input=TensorContract("int8", network.input_tensor.shape),
        output=TensorContract("int8", network.output_tensor.shape),
        positions=graph.positions,
        plans=plans,
        metrics={key: float(value) for key, value in figures.items() if math.isfinite(value)},
        parent=parent,
    )
    data = encode_bundle(manifest, parts, key)
    if path is not None:
        write_atomically(path, data)
    return data


def bundle_parts(
    graph: Graph,
    tensors: Tensors,
    preprocessing: Preprocessing,
    name: str,
    version: int,
    network: IntegerNetwork | None = None,
    *,
    float_tflite: bool = False,
    opencl_float: bool = False,
) -> dict[str, bytes]:
    """Every part of a bundle by its name; the same arguments give the same bytes, as wire files need.

    Args:
        graph: The network.
        tensors: Its tensors, ranges with them.
        preprocessing: From pixels to what the network reads.
        name: What the model is called.
        version: The bundle's version.
        network: The int8 network of the graph and the tensors; None: it is made here.
        float_tflite: Add the float32 .tflite.
        opencl_float: Add float32 launch plans.
    """
    # The schema package is loaded by whoever writes a .tflite, not by a device that opens a bundle.
    from emberfleet.converters.tflite.float_writer import write_tflite_float
    from emberfleet.converters.tflite.int8_writer import write_tflite_int8

    network = quantize(graph, tensors) if network is None else network
    floating = (without_softmax(graph), tensors) if opencl_float else None
    parts = {
        GRAPH_PART: graph.to_json().encode(),
        WEIGHTS_PART: encode_tensors(tensors),
        TFLITE_PART: write_tflite_int8(network, f"{name} {version}, int8"),
        **write_opencl_part(network, preprocessing, floating),
    }
    if float_tflite:
        parts[FLOAT_TFLITE_PART] = write_tflite_float(graph, tensors, f"{name} {version}, float32")
    return parts


def model_of(bundle: Bundle) -> TrainedModel:
    """The float model in an opened bundle.

    Raises:
        FormatError: parts that are missing, damaged or do not fit together.
    """
    from emberfleet.train.trained import TrainedModel

    manifest = bundle.manifest
    try:
        return TrainedModel(
            bundle.graph(),
            _float_tensors(bundle),
            manifest.preprocessing,
            manifest.labels,
            figures=dict(manifest.metrics),
        )
    except ShapeError as error:
        raise FormatError(f"bundle: {error}") from error


def network_of(bundle: Bundle) -> IntegerNetwork:
    """The int8 network in an opened bundle, as OpenCL and numpy run it.

    Raises:
        FormatError: parts that are missing or damaged, or whose ends are not those of the manifest.
    """
    network = read_opencl_part({name: bundle.part(name) for name in bundle.parts if name.startswith(FOLDER)})
    stated = (bundle.manifest.input.shape, bundle.manifest.output.shape)
    found = (network.input_tensor.shape, network.output_tensor.shape)
    if found != stated:
        raise FormatError(f"bundle: the int8 network goes from {found[0]} to {found[1]}, expected {stated}")
    return network


def _float_tensors(bundle: Bundle) -> dict[str, Float32]:
    tensors = bundle.tensors()
    for name, array in tensors.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise FormatError(f"bundle: tensor '{name}' is {array.dtype}, expected finite float32")
    return tensors
