"""TensorFlow as a child process: a Keras model trained by a tf.function.

``python -m benchmarks.engine.tensorflow_job JSON``, by an interpreter that has TensorFlow. Not through XLA:
on these networks and processors that takes two to three times as long.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from benchmarks.engine.job import (
    ADAM_EPSILON,
    MOMENTUM,
    NORM_EPSILON,
    NORM_MOMENTUM,
    RATE,
    Job,
    Training,
    serve_job,
)
from emberfleet.runtime.measuring import Work


def prepare(job: Job) -> Work:
    """Build the network with our weights."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    tf = import_module("tensorflow")
    tf.config.threading.set_intra_op_parallelism_threads(job.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = build(job)
    optimizers = tf.keras.optimizers
    if job.optimizer == "adam":
        optimizer = optimizers.Adam(RATE, epsilon=ADAM_EPSILON)
    else:
        optimizer = optimizers.SGD(RATE, MOMENTUM)
    loss_of = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, labels = tf.constant(job.array("x")), tf.constant(job.array("labels"))

    @tf.function  # type: ignore[untyped-decorator]
    def step(images: Any, wanted: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(wanted, model(images, training=True))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return Training(lambda: float(step(x, labels)), tf.__version__)


def build(job: Job) -> Any:
    """The network of `networks.build` as a Keras model that holds the job's weights."""
    layers = import_module("tensorflow").keras.layers
    keras = import_module("tensorflow").keras
    net, weights = job.net, job.weights
    made: dict[str, Any] = {}

    def conv(x: Any, name: str, stride: int = 1, padding: str = "same") -> Any:
        outputs, height, width, _ = weights[f"{name}/weight"].shape
        bias = f"{name}/bias" in weights
        made[name] = layers.Conv2D(outputs, (height, width), stride, padding, use_bias=bias)
        return made[name](x)

    def activate(x: Any, name: str) -> Any:
        if net["batch_norm"]:
            made[f"{name}_norm"] = layers.BatchNormalization(momentum=NORM_MOMENTUM, epsilon=NORM_EPSILON)
            x = made[f"{name}_norm"](x)
        return layers.ReLU()(x)

    image = layers.Input((net["side"], net["side"], net["channels"]))
    padded = layers.ZeroPadding2D(net["padding"])(image) if net["padding"] else image
    x = activate(conv(padded, "conv1", net["stride"], "valid"), "conv1")
    for g, group in enumerate(net["groups"]):
        # The ceiling pools of torch: SAME adds the one pixel at the end of an even side, VALID needs none.
        x = layers.MaxPool2D(3, 2, "valid" if x.shape[1] % 2 else "same")(x)
        for f in range(len(group)):
            name = f"fire{g}_{f}"
            narrow = activate(conv(x, f"{name}/squeeze"), f"{name}/squeeze")
            branches = [conv(narrow, f"{name}/expand1x1"), conv(narrow, f"{name}/expand3x3")]
            x = activate(layers.Concatenate()(branches), name)
    x = conv(x, "head")
    if net["head_relu"]:
        x = layers.ReLU()(x)
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    for name, layer in made.items():
        layer.set_weights(_values(weights, name))
    return model


def _values(weights: dict[str, Any], name: str) -> list[Any]:
    """A layer's weights in Keras's order and layout."""
    if name.endswith("_norm"):
        return [weights[f"{name}/{part}"] for part in ("gamma", "beta", "mean", "variance")]
    found = [weights[f"{name}/weight"].transpose(1, 2, 3, 0)]
    return found + ([weights[f"{name}/bias"]] if f"{name}/bias" in weights else [])


if __name__ == "__main__":
    serve_job(prepare)
