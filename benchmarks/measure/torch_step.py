"""The same training step in torch, channels_last: run by an interpreter that has torch, never by ours.

``python -m benchmarks.measure.torch_step JSON``, with the fields of `networks.SqueezeNetShape`,
``batch`` and ``threads``. It needs torch and, of Emberfleet, only `runtime.measuring`.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any

from emberfleet.runtime.measuring import SkippedError, check_falling, serve

RATE = 1e-3


class TorchStep:
    """Steps of one network on one batch with Adam."""

    def __init__(self, text: str) -> None:
        try:
            torch = import_module("torch")
        except ImportError as error:
            raise SkippedError(f"the peer's interpreter has no torch: {error}") from error
        shape: dict[str, Any] = json.loads(text)
        torch.set_num_threads(shape["threads"])
        torch.manual_seed(0)
        self._torch = torch
        self._net = _network(shape).train().to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.Adam(self._net.parameters(), RATE, eps=1e-8)
        images = torch.rand(shape["batch"], shape["channels"], shape["side"], shape["side"])
        self._x = images.contiguous(memory_format=torch.channels_last)
        self._labels = torch.randint(0, shape["classes"], (shape["batch"],))
        self._losses: list[float] = []

    def call(self) -> None:
        """One step."""
        self._optimizer.zero_grad()
        loss = self._torch.nn.functional.cross_entropy(self._net(self._x).mean((2, 3)), self._labels)
        loss.backward()
        self._optimizer.step()
        self._losses.append(loss.item())

    def facts(self) -> dict[str, Any]:
        """First and last loss; raises when it did not fall."""
        check_falling("torch", self._losses[0], self._losses[-1])
        return {
            "parameters": sum(p.numel() for p in self._net.parameters()),
            "first_loss": round(self._losses[0], 4),
            "last_loss": round(self._losses[-1], 4),
            "torch": self._torch.__version__,
        }


def _network(shape: dict[str, Any]) -> Any:
    torch = import_module("torch")
    nn = torch.nn
    module: Any = nn.Module

    class Fire(module):  # type: ignore[misc]  # torch is not there to take types from
        def __init__(self, channels: int, squeeze: int, expand: int) -> None:
            super().__init__()
            self.squeeze = nn.Sequential(
                nn.Conv2d(channels, squeeze, 1, bias=False), nn.BatchNorm2d(squeeze), nn.ReLU(inplace=True)
            )
            self.expand1x1 = nn.Conv2d(squeeze, expand, 1, bias=False)
            self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1, bias=False)
            self.end = nn.Sequential(nn.BatchNorm2d(2 * expand), nn.ReLU(inplace=True))

        def forward(self, x: Any) -> Any:
            x = self.squeeze(x)
            return self.end(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))

    stem = shape["stem"]
    layers: list[Any] = [
        nn.Conv2d(shape["channels"], stem, 3, shape["stride"], 1, bias=False),
        nn.BatchNorm2d(stem),
        nn.ReLU(inplace=True),
    ]
    channels = stem
    for group in shape["groups"]:
        layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        for squeeze, expand in group:
            layers.append(Fire(channels, squeeze, expand))
            channels = 2 * expand
    layers.append(nn.Conv2d(channels, shape["classes"], 1))
    return nn.Sequential(*layers)


if __name__ == "__main__":
    serve(lambda: TorchStep(sys.argv[1]))
