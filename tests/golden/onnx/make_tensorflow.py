"""Makes the networks that tf2onnx writes of Keras models: ``*_tf2onnx_*.onnx``.

    python tests/golden/onnx/make_tensorflow.py tests/golden/onnx

Needs TensorFlow 2.21 and tf2onnx 1.17. The networks are narrow and untrained: it is the way in which they
are written down that matters. A newer tf2onnx may write them otherwise; the files need not change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

tf: Any = import_module("tensorflow")
tf2onnx: Any = import_module("tf2onnx")
keras: Any = tf.keras
layers: Any = keras.layers
SIDE = 33


def mobilenet() -> Any:
    """MobileNet v1 as Keras has it: its own rescaling, padding in layers of its own, softmax."""
    image = layers.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = _activated(layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x))
    for channels, stride in ((8, 1), (16, 2), (16, 1)):
        if stride == 2:
            x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
        padding = "same" if stride == 1 else "valid"
        x = _activated(layers.DepthwiseConv2D(3, strides=stride, padding=padding, use_bias=False)(x))
        x = _activated(layers.Conv2D(channels, 1, use_bias=False)(x))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


def _activated(x: Any) -> Any:
    return layers.ReLU(6.0)(layers.BatchNormalization()(x))


def resnet() -> Any:
    """A residual block behind a padded stem, flattened in TensorFlow's order into dense layers."""
    image = layers.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 7, strides=2)(layers.ZeroPadding2D(3)(image))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.AveragePooling2D(2, padding="same")(x))
    x = layers.Dense(8, activation="relu")(x)
    return keras.Model(image, layers.Dense(10)(x))


def squeezenet() -> Any:
    """A fire module on grey images."""
    image = layers.Input((SIDE, SIDE, 1))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    squeezed = layers.Conv2D(4, 1, activation="relu")(x)
    left = layers.Conv2D(6, 1, activation="relu")(squeezed)
    right = layers.Conv2D(6, 3, padding="same", activation="relu")(squeezed)
    x = layers.Conv2D(10, 1)(layers.Concatenate()([left, right]))
    x = layers.Flatten()(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return keras.Model(image, layers.Softmax()(x))


NETWORKS: tuple[tuple[str, Callable[[], Any], int], ...] = (
    ("mobilenet", mobilenet, 13),
    ("resnet", resnet, 15),
    ("squeezenet", squeezenet, 18),
)
"""Name, network and opset."""


def write(folder: Path) -> None:
    """Convert every network."""
    for name, make, opset in NETWORKS:
        keras.utils.set_random_seed(0)
        rng = np.random.default_rng(0)
        model = make()
        model.set_weights([_untrained(rng, entry.path, np.array(entry)) for entry in model.weights])
        signature = [tf.TensorSpec(model.inputs[0].shape, tf.float32, name="image")]
        call = tf.function(lambda x, model=model: model(x, training=False), input_signature=signature)
        path = folder / f"{name}_tf2onnx_{opset}.onnx"
        tf2onnx.convert.from_function(call, input_signature=signature, opset=opset, output_path=str(path))


def _untrained(rng: np.random.Generator, path: str, weights: Any) -> Any:
    """Weights under which batch norm does something."""
    if path.endswith(("gamma", "variance")):
        return rng.uniform(0.5, 1.5, weights.shape).astype(np.float32)
    return (weights + rng.normal(0, 0.1, weights.shape)).astype(np.float32)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
