"""TensorFlow as a child process: a network of ours as a Keras model, through TensorFlow's converter.

``python benchmarks/tflite_sizes/keras_job.py FOLDER``, by an interpreter that has TensorFlow. The folder
holds ``graph.json``, ``tensors.npz`` and ``images.npy``; it gets one .tflite for each form.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def build(nodes: list[dict[str, Any]], tensors: Mapping[str, Any]) -> Any:
    """The graph's nodes as a Keras model with the graph's weights."""
    keras = import_module("tensorflow").keras
    made: dict[str, Any] = {}
    for node in nodes:
        sources = [made[name] for name in node["inputs"]]
        made[node["name"]] = _layer(keras, node, tensors, sources)
    return keras.Model(made[nodes[0]["name"]], made[nodes[-1]["name"]])


def _layer(keras: Any, node: dict[str, Any], tensors: Mapping[str, Any], sources: list[Any]) -> Any:
    layers, kind, name = keras.layers, node["kind"], node["name"]
    if kind == "input":
        return layers.Input(tuple(node["shape"]), batch_size=1)
    if kind in ("conv2d", "depthwise_conv2d"):
        weight = tensors[f"{name}/weight"]
        bias = [tensors[f"{name}/bias"]] if node["bias"] else []
        image, padding = _padded(layers, sources[0], node)
        if kind == "conv2d":
            layer = layers.Conv2D(len(weight), node["kernel"], node["stride"], padding, use_bias=bool(bias))
            kernel = weight.transpose(1, 2, 3, 0)
        else:
            layer = layers.DepthwiseConv2D(
                node["kernel"], node["stride"], padding, node["multiplier"], use_bias=bool(bias)
            )
            kernel = weight.transpose(1, 2, 0, 3)
        output = layer(image)
        layer.set_weights([kernel.reshape(layer.get_weights()[0].shape), *bias])
        return output
    if kind == "batch_norm":
        layer = layers.BatchNormalization(epsilon=node["epsilon"])
        output = layer(sources[0])
        layer.set_weights([tensors[f"{name}/{part}"] for part in ("gamma", "beta", "mean", "variance")])
        return output
    if kind == "max_pool":
        image, padding = _padded(layers, sources[0], node, -np.inf)
        return layers.MaxPool2D(node["kernel"], node["stride"], padding)(image)
    simple = {
        "relu": layers.ReLU,
        "global_average_pool": layers.GlobalAveragePooling2D,
        "concat": layers.Concatenate,
        "add": layers.Add,
    }
    if kind == "clipped_relu":
        return layers.ReLU(node["ceiling"])(sources[0])
    if kind in simple:
        return simple[kind]()(sources if len(sources) > 1 else sources[0])
    if kind == "dropout":
        return sources[0]
    raise ValueError(f"{kind} '{name}' is not built here")


def _padded(layers: Any, image: Any, node: dict[str, Any], value: float = 0.0) -> tuple[Any, str]:
    """The image, padded where SAME does not read the same pixels, and the padding that Keras is told."""
    size, (top, left, bottom, right) = image.shape[1:3], node["padding"]
    if not any(node["padding"]):
        return image, "valid"
    total = [
        max((-(-n // s) - 1) * s + k - n, 0)
        for n, k, s in zip(size, node["kernel"], node["stride"], strict=True)
    ]
    same = [total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2]
    if list(node["padding"]) == same:
        return image, "same"
    if value != 0.0:
        raise ValueError(f"pool '{node['name']}' is padded as SAME does not")
    return layers.ZeroPadding2D(((top, bottom), (left, right)))(image), "valid"


def convert(model: Any, images: Any) -> Iterator[tuple[str, bytes]]:
    """The files by their forms."""
    tensorflow = import_module("tensorflow")
    lite = tensorflow.lite
    for form in ("float32", "float16", "dynamic", "int8"):
        converter = lite.TFLiteConverter.from_keras_model(model)
        if form != "float32":
            converter.optimizations = [lite.Optimize.DEFAULT]
        if form == "float16":
            converter.target_spec.supported_types = [tensorflow.float16]
        if form == "int8":
            converter.representative_dataset = lambda: ([image[None]] for image in images)
            converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tensorflow.int8
        yield form, converter.convert()


def main(folder: Path) -> None:
    """Convert what stands in the folder, and say how far Keras is from our outputs."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with np.load(folder / "tensors.npz") as held:
        tensors = dict(held)
    images, outputs = np.load(folder / "images.npy"), np.load(folder / "outputs.npy")
    model = build(json.loads((folder / "graph.json").read_text())["nodes"], tensors)
    found = np.concatenate([model(image[None]).numpy() for image in images])
    error = float(np.abs(found - outputs).max() / np.abs(outputs).max())
    (folder / "error.json").write_text(json.dumps(error))
    for form, data in convert(model, images):
        (folder / f"{form}.tflite").write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
