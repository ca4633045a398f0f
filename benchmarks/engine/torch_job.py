"""torch as a child process: ``python -m benchmarks.engine.torch_job JSON``, by an interpreter that has it.

Variants: ``eager`` (NCHW, everything by default), ``channels_last``, ``compiled`` (the same through
torch.compile), ``bf16`` (channels_last under autocast). All but eager take torch's fused optimizers: Adam's
step is a tenth of the small net's. Batch norm stands behind the concat, as in our graph: torch is a few
per cent faster so than with one on each branch.
"""

from __future__ import annotations

import shutil
from importlib import import_module
from typing import Any

from benchmarks.engine.job import (
    ADAM_EPSILON,
    BFLOAT16,
    MOMENTUM,
    NORM_EPSILON,
    NORM_MOMENTUM,
    RATE,
    TRAIN,
    Inference,
    Job,
    Training,
    check_float,
    serve_job,
)
from emberfleet.runtime.measuring import SkippedError, Work


def prepare(job: Job) -> Work:
    """Build the network with our weights."""
    if job.variant == "compiled" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise SkippedError("torch.compile needs a C++ compiler and none is on PATH")
    torch = import_module("torch")
    torch.set_num_threads(job.threads)
    net = build(job)
    order = torch.contiguous_format if job.variant == "eager" else torch.channels_last
    net = net.to(memory_format=order)
    x = torch.from_numpy(job.array("x").transpose(0, 3, 1, 2)).contiguous(memory_format=order)
    return _training(job, net, x) if job.kind == TRAIN else _inference(job, net.eval(), x)


def _training(job: Job, net: Any, x: Any) -> Work:
    torch = import_module("torch")
    fused = None if job.variant == "eager" else True
    if job.optimizer == "adam":
        optimizer = torch.optim.Adam(net.parameters(), RATE, eps=ADAM_EPSILON, fused=fused)
    else:
        optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM, fused=fused)
    labels = torch.from_numpy(job.array("labels"))
    forward = torch.compile(net) if job.variant == "compiled" else net
    half = job.precision == BFLOAT16

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = torch.nn.functional.cross_entropy(forward(x).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return Training(step, torch.__version__)


def _inference(job: Job, net: Any, x: Any) -> Work:
    torch = import_module("torch")

    def run() -> Any:
        with torch.inference_mode():
            return net(x).numpy()

    return Inference(run, torch.__version__, check_float(run(), job.array("y")))


def build(job: Job) -> Any:
    """The network of `networks.build` as a module that holds the job's weights."""
    torch = import_module("torch")
    nn = torch.nn
    module: Any = nn.Module
    net, weights = job.net, job.weights

    def tensor(name: str) -> Any:
        return torch.from_numpy(weights[name].copy())

    def conv(name: str, stride: int = 1, padding: int = 0) -> Any:
        values = tensor(f"{name}/weight").permute(0, 3, 1, 2)
        outputs, inputs, height, width = values.shape
        bias = f"{name}/bias" in weights
        made = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=bias)
        with torch.no_grad():
            made.weight.copy_(values)
            if bias:
                made.bias.copy_(tensor(f"{name}/bias"))
        return made

    def activate(name: str) -> list[Any]:
        layers: list[Any] = [nn.ReLU(inplace=True)]
        if net["batch_norm"]:
            norm = nn.BatchNorm2d(len(weights[f"{name}_norm/gamma"]), NORM_EPSILON, 1 - NORM_MOMENTUM)
            with torch.no_grad():
                norm.weight.copy_(tensor(f"{name}_norm/gamma"))
                norm.bias.copy_(tensor(f"{name}_norm/beta"))
            layers.insert(0, norm)
        return layers

    class Fire(module):  # type: ignore[misc]  # torch is not there to take types from
        def __init__(self, name: str) -> None:
            super().__init__()
            self.squeeze = nn.Sequential(conv(f"{name}/squeeze"), *activate(f"{name}/squeeze"))
            self.expand1x1 = conv(f"{name}/expand1x1")
            self.expand3x3 = conv(f"{name}/expand3x3", padding=1)
            self.end = nn.Sequential(*activate(name))

        def forward(self, x: Any) -> Any:
            x = self.squeeze(x)
            return self.end(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))

    class Mean(module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x.mean((2, 3))

    layers = [conv("conv1", net["stride"], net["padding"]), *activate("conv1")]
    for g, group in enumerate(net["groups"]):
        layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        layers += [Fire(f"fire{g}_{f}") for f in range(len(group))]
    layers += [conv("head"), *([nn.ReLU(inplace=True)] if net["head_relu"] else []), Mean()]
    return nn.Sequential(*layers)


if __name__ == "__main__":
    serve_job(prepare)
