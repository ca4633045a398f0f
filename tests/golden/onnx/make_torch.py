"""Makes the networks that PyTorch exports: ``*_torchscript_*.onnx`` and ``*_dynamo_*.onnx``.

    python tests/golden/onnx/make_torch.py tests/golden/onnx

Needs torch 2.13, onnx and onnxscript. The networks are narrow and untrained: it is the way in which both
exporters write them down that matters. What dynamo notes about the source code of each operator is left out.
A newer torch may write them otherwise; the files need not change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

torch: Any = import_module("torch")
nn: Any = torch.nn
functional: Any = torch.nn.functional
SIDE = 33


class Wired(nn.Module):  # type: ignore[misc]
    """Parts by name and a function that says how the data goes through them."""

    def __init__(self, wire: Callable[[Any, Any], Any], **parts: Any) -> None:
        super().__init__()
        self.wire = wire
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        """The function, on the parts."""
        return self.wire(self, x)


def squeezenet() -> Any:
    """SqueezeNet 1.1 as torchvision has it: pools that round up, a ReLU on each branch, dropout."""

    def fire(channels: int, squeeze: int, expand: int) -> Any:
        def wire(net: Any, x: Any) -> Any:
            x = net.activation(net.squeeze(x))
            return torch.cat([net.activation(net.expand1x1(x)), net.activation(net.expand3x3(x))], 1)

        return Wired(
            wire,
            squeeze=nn.Conv2d(channels, squeeze, 1),
            expand1x1=nn.Conv2d(squeeze, expand, 1),
            expand3x3=nn.Conv2d(squeeze, expand, 3, padding=1),
            activation=nn.ReLU(inplace=True),
        )

    def pool() -> Any:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(inplace=True), pool(), fire(8, 2, 4), fire(8, 2, 4), pool(),
        fire(8, 4, 8), fire(16, 4, 8), pool(), fire(16, 6, 12), fire(24, 8, 16),
    )  # fmt: skip
    classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(32, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)))
    return Wired(
        lambda net, x: torch.flatten(net.classifier(net.features(x)), 1),
        features=features,
        classifier=classifier,
    )


def mobilenet() -> Any:
    """MobileNet v1: depthwise and pointwise convolutions, ReLU6, the mean as a reduction."""

    def conv(source: int, channels: int, stride: int, kernel: int = 3, groups: int = 1) -> Any:
        return nn.Sequential(
            nn.Conv2d(source, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU6(inplace=True),
        )

    layers, channels = [conv(3, 8, 2)], 8
    for wider, stride in ((8, 1), (16, 2), (16, 1), (24, 2), (24, 1)):
        layers += [conv(channels, channels, stride, groups=channels), conv(channels, wider, 1, kernel=1)]
        channels = wider
    return Wired(
        lambda net, x: net.classifier(net.features(x).mean([2, 3])),
        features=nn.Sequential(*layers),
        classifier=nn.Linear(channels, 10),
    )


def resnet() -> Any:
    """ResNet-18: residual blocks of two convolutions, some with a projection on the shortcut."""

    def block(source: int, channels: int, stride: int) -> Any:
        projection = nn.Sequential(
            nn.Conv2d(source, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
        )

        def wire(net: Any, x: Any) -> Any:
            y = net.norm2(net.conv2(functional.relu(net.norm1(net.conv1(x)))))
            return functional.relu(y + net.projection(x))

        return Wired(
            wire,
            conv1=nn.Conv2d(source, channels, 3, stride, 1, bias=False),
            norm1=nn.BatchNorm2d(channels),
            conv2=nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            norm2=nn.BatchNorm2d(channels),
            projection=nn.Identity() if stride == 1 else projection,
        )

    layers = [block(4, 4, 1), block(4, 4, 1)]
    for source, channels in ((4, 4), (4, 6), (6, 8)):
        layers += [block(source, channels, 2), block(channels, channels, 1)]

    def wire(net: Any, x: Any) -> Any:
        x = net.pool(functional.relu(net.norm(net.conv(x))))
        return net.classifier(torch.flatten(net.mean(net.layers(x)), 1))

    return Wired(
        wire,
        conv=nn.Conv2d(3, 4, 7, 2, 3, bias=False),
        norm=nn.BatchNorm2d(4),
        pool=nn.MaxPool2d(3, 2, 1),
        layers=nn.Sequential(*layers),
        mean=nn.AdaptiveAvgPool2d(1),
        classifier=nn.Linear(8, 10),
    )


def dense() -> Any:
    """Groups, means that count their padding, and an image flattened by ``view`` into dense layers."""

    def wire(net: Any, x: Any) -> Any:
        x = net.features(x)
        x = x.view(x.size(0), -1)
        x = functional.dropout(functional.relu(net.hidden(x)), 0.25, net.training)
        return functional.softmax(net.classifier(x), 1)

    features = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 8, 3, groups=2),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(3, 2, 1), nn.MaxPool2d(2),
    )  # fmt: skip
    return Wired(wire, features=features, hidden=nn.Linear(72, 12), classifier=nn.Linear(12, 10))


def untrained(make: Callable[[], Any]) -> Any:
    """A network whose batch norms do something."""
    torch.manual_seed(0)
    net = make()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)
    return net.eval()


NETWORKS: dict[str, Callable[[], Any]] = {
    "squeezenet": squeezenet,
    "mobilenet": mobilenet,
    "resnet": resnet,
    "dense": dense,
}
TORCHSCRIPT = (
    ("squeezenet", 11, "eval"), ("squeezenet", 17, "training"), ("mobilenet", 11, "training"),
    ("mobilenet", 13, "preserve"), ("resnet", 15, "eval"), ("resnet", 18, "training"),
    ("dense", 12, "preserve"),
)  # fmt: skip
"""Network, opset, and the `torch.onnx.TrainingMode`: batch norm is folded, kept, or kept as in training."""
DYNAMO = (
    ("squeezenet", 18, True), ("mobilenet", 22, True), ("resnet", 20, False), ("dense", 19, False),
    ("dense", 22, True),
)  # fmt: skip
"""Network, opset, and whether the batch is open and the exporter optimizes."""


def write(folder: Path) -> None:
    """Export every network by both exporters."""
    image = torch.zeros(1, 3, SIDE, SIDE)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["scores"]}
    for name, opset, mode in TORCHSCRIPT:
        training = getattr(torch.onnx.TrainingMode, mode.upper())
        net = untrained(NETWORKS[name]).train(mode == "training")
        torch.onnx.export(
            net, (image,), str(folder / f"{name}_torchscript_{mode}_{opset}.onnx"), opset_version=opset,
            dynamo=False, training=training, do_constant_folding=mode == "eval",
            dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}}, **names,
        )  # fmt: skip
    for name, opset, open_batch in DYNAMO:
        batch = {0: torch.export.Dim("n", min=1, max=64)}
        program = torch.onnx.export(
            untrained(NETWORKS[name]), (image,), opset_version=opset, dynamo=True, optimize=open_batch,
            verbose=False, dynamic_shapes=(batch,) if open_batch else None, **names,
        )  # fmt: skip
        (folder / f"{name}_dynamo_{opset}.onnx").write_bytes(without_notes(program.model_proto))


def without_notes(model: Any) -> bytes:
    """The bytes of a model without what is said about its source code."""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    return bytes(model.SerializeToString())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
