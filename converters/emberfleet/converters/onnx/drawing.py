"""A network as operators of ONNX, and the bytes of the file.

Images are ``(N, C, H, W)``, as that ecosystem expects, classes ``(N, K)``; the batch is open. A tensor has
the name of our node, the ends are called ``image`` and ``scores``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from emberfleet.core.arrays import Array, Float32
from emberfleet.core.errors import ConversionError
from emberfleet.core.nodes import Padding, Shape

if TYPE_CHECKING:
    import onnx

OPSET: Final = 17
IR_VERSION: Final = 8
"""What opset 17 came with, so that every runtime since 2022 loads the file."""
MAX_FILE_BYTES: Final = (1 << 31) - 1
INPUT: Final = "image"
OUTPUT: Final = "scores"


class Drawing:
    """Operators and constants, added one after another."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._taken: set[str] = {INPUT, OUTPUT}

    def unused(self, wanted: str) -> str:
        """This name for a tensor, counted up where it is taken."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

    def constant(self, name: str, values: Array) -> str:
        """A tensor with known values; returns its name."""
        from onnx.numpy_helper import from_array

        kept = self.unused(name)
        self._constants[kept] = from_array(np.asarray(values, order="C"), kept)
        return kept

    def add(
        self,
        operator: str,
        inputs: tuple[str, ...],
        output: str,
        **attributes: Any,
    ) -> str:
        """One operator with attributes of the format, called as its output; returns the name of that."""
        from onnx.helper import make_node

        self._nodes.append(make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def conv(
        self,
        source: str,
        weights: tuple[str, str | None],
        output: str,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: Padding,
        group: int = 1,
    ) -> str:
        """A convolution with weights ``(O, C / group, KH, KW)`` and a bias, where it has one."""
        inputs = (source, *(name for name in weights if name is not None))
        return self.add(
            "Conv", inputs, output, kernel_shape=kernel, strides=stride, pads=padding, group=group
        )  # fmt: skip

    def reshape(self, source: str, output: str, before: Shape, after: Shape) -> str:
        """The values of our tensor in the order in which it has them, under another shape."""
        if len(before) == 3 and before[2] > 1 and before[0] * before[1] > 1:
            source = self.add("Transpose", (source,), self.unused(f"{output}/nhwc"), perm=(0, 2, 3, 1))
        if len(after) != 3 or after[2] == 1 or after[0] * after[1] == 1:
            sizes = self.constant(f"{output}/shape", np.array([0, *file_order(after)], np.int64))
            return self.add("Reshape", (source, sizes), output)
        sizes = self.constant(f"{output}/shape", np.array([0, *after], np.int64))
        plain = self.add("Reshape", (source, sizes), self.unused(f"{output}/nhwc"))
        return self.add("Transpose", (plain,), output, perm=(0, 3, 1, 2))

    def global_average_pool(self, source: str, output: str) -> str:
        """Mean over the image: ``(N, C, H, W)`` to ``(N, C)``."""
        mean = self.add("GlobalAveragePool", (source,), self.unused(f"{output}/mean"))
        return self.add("Flatten", (mean,), output, axis=1)

    def encode(self, image: Shape, scores: Shape, description: str, metadata: Mapping[str, str]) -> bytes:
        """The bytes of the file; the same network gives the same bytes.

        Args:
            image: ``(H, W, C)``.
            scores: ``(K,)`` or ``(P, K)``, or an image.
            description: What the file says about itself.
            metadata: Further texts.

        Raises:
            ConversionError: larger than the format allows.
        """
        from onnx import TensorProto
        from onnx.helper import make_graph, make_model, make_opsetid, make_tensor_value_info, set_model_props

        graph = make_graph(
            self._nodes,
            "emberfleet",
            [make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", *file_order(image)])],
            [make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", *file_order(scores)])],
            list(self._constants.values()),
        )
        model = make_model(
            graph, producer_name="emberfleet", opset_imports=[make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        model.doc_string = description
        set_model_props(model, dict(metadata))
        size = model.ByteSize()
        if size > MAX_FILE_BYTES:
            raise ConversionError(
                f"onnx: the file would have {size} bytes, expected at most {MAX_FILE_BYTES}"
            )
        return bytes(model.SerializeToString(deterministic=True))


def file_order(shape: Shape) -> Shape:
    """A shape of ours as it is in the file: an image's channels come first."""
    return (shape[2], *shape[:2]) if len(shape) == 3 else shape


def channels_first(weights: Array) -> Array:
    """``(O, KH, KW, C)`` as ``(O, C, KH, KW)``."""
    return weights.transpose(0, 3, 1, 2)


def one(value: float) -> Float32:
    """A number as a tensor without axes."""
    return np.array(value, np.float32)
