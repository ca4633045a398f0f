"""Random networks of every operator that the writers know, with odd paddings, strides and sizes."""

from __future__ import annotations

from hypothesis import strategies as st

from emberfleet.core.graph import Graph
from emberfleet.core.nodes import (
    Add,
    AveragePool,
    BatchNorm,
    ClippedRelu,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    Dropout,
    GlobalAveragePool,
    Input,
    MaxPool,
    Node,
    Padding,
    Relu,
    Reshape,
    Shape,
)


class _Sketch:
    """Nodes so far with their shapes; every choice is drawn by hypothesis."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {}

    def add(self, node: Node) -> str:
        self.shapes[node.name] = node.infer(tuple(self.shapes[name] for name in node.inputs))
        self.nodes.append(node)
        return node.name

    @property
    def last(self) -> str:
        return self.nodes[-1].name

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def window(self, source: str, padding_below: int) -> tuple[tuple[int, int], tuple[int, int], Padding]:
        """Kernel, stride and padding (each side below the kernel less `padding_below`) that fit the image."""
        h, w, _ = self.shapes[source]
        kernel = (self.number(1, min(4, h)), self.number(1, min(4, w)))
        stride = (self.number(1, 3), self.number(1, 3))
        most = [max(0, k - padding_below) for k in kernel]
        padding = tuple(self.number(0, most[axis]) for axis in (0, 1, 0, 1))
        return kernel, stride, (padding[0], padding[1], padding[2], padding[3])

    def conv(self, name: str, source: str, channels: int) -> str:
        kernel, stride, padding = self.window(source, 0)
        return self.add(Conv2D(name, (source,), channels, kernel, stride, padding, self.draw(st.booleans())))

    def depthwise(self, name: str, source: str) -> str:
        multiplier, bias = self.draw(st.sampled_from((1, 1, 2, 3))), self.draw(st.booleans())
        return self.add(DepthwiseConv2D(name, (source,), multiplier, *self.window(source, 0), bias))

    def activate(self, name: str, source: str) -> str:
        if self.draw(st.booleans()):
            source = self.add(BatchNorm(f"{name}/norm", (source,)))
        kind = self.draw(st.sampled_from(("none", "relu", "relu6", "ceiling")))
        if kind == "relu":
            return self.add(Relu(f"{name}/relu", (source,)))
        if kind == "none":
            return source
        ceiling = 6.0 if kind == "relu6" else self.draw(st.sampled_from((0.25, 1.0, 1.7, 20.0)))
        return self.add(ClippedRelu(f"{name}/clipped", (source,), ceiling))

    def fire(self, name: str, source: str, expand: int) -> str:
        squeezed = self.activate(f"{name}/squeeze", self.add(Conv2D(f"{name}/squeeze", (source,), 3)))
        left = self.add(Conv2D(f"{name}/left", (squeezed,), expand))
        right = self.add(Conv2D(f"{name}/right", (squeezed,), expand, (3, 3), (1, 1), (1, 1, 1, 1)))
        return self.activate(name, self.add(Concat(f"{name}/concat", (left, right))))

    def block(self, name: str) -> None:
        kind = self.draw(
            st.sampled_from(("conv", "depthwise", "pool", "average", "fire", "bypass", "sum", "relu", "norm"))
        )
        source = self.last
        if kind == "conv":
            self.activate(name, self.conv(name, source, self.draw(st.sampled_from((1, 2, 5, 8)))))
        elif kind == "depthwise":
            self.activate(name, self.depthwise(name, source))
        elif kind == "pool":
            self.add(MaxPool(name, (source,), *self.window(source, 1)))
        elif kind == "average":
            self.add(AveragePool(name, (source,), *self.window(source, 1)))
        elif kind == "fire":
            self.fire(name, source, self.number(1, 4))
        elif kind == "bypass":
            same = self.activate(
                f"{name}/side", self.add(Conv2D(f"{name}/side", (source,), self.shapes[source][2]))
            )
            self.activate(f"{name}/sum", self.add(Add(name, (same, source))))
        elif kind == "sum":
            # Two readers of one image, summed on scales of their own: the shape of a residual block.
            left, right = (
                self.activate(f"{name}/{side}", self.add(Conv2D(f"{name}/{side}", (source,), 4)))
                for side in ("left", "right")
            )
            self.activate(f"{name}/sum", self.add(Add(name, (left, right))))
        elif kind == "norm":
            # A batch norm and an activation that no convolution can take in.
            pooled = self.add(MaxPool(f"{name}/pool", (source,), (1, 1), (1, 1)))
            self.activate(name, self.add(BatchNorm(f"{name}/alone", (pooled,))))
        else:
            # A ReLU that pooling separates from the convolution, and another reader of what it reads.
            pooled = self.add(MaxPool(f"{name}/pool", (source,), (1, 1), (1, 1)))
            self.add(Add(name, (self.activate(f"{name}/apart", pooled), pooled)))


@st.composite
def random_graphs(draw: st.DrawFn) -> Graph:
    """A chain of up to five blocks, a classifier, and one or several positions."""
    sketch = _Sketch(draw)
    sketch.add(
        Input("input", (), (sketch.number(4, 13), sketch.number(4, 13), draw(st.sampled_from((1, 3)))))
    )
    for number in range(sketch.number(1, 5)):
        sketch.block(f"b{number}")
    if draw(st.booleans()):
        sketch.add(Dropout("dropout", (sketch.last,), 0.3))
    positions, classes = draw(st.sampled_from(((1, 4), (1, 10), (3, 5), (14, 36))))
    sketch.add(Conv2D("head", (sketch.last,), positions * classes))
    sketch.add(GlobalAveragePool("mean", (sketch.last,)))
    if positions > 1:
        sketch.add(Reshape("matrix", ("mean",), (positions, classes)))
    return Graph(tuple(sketch.nodes))
