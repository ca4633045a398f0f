"""The bundle's OpenCL part: by our own backend, by a host that follows the plan, by the native runner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from emberfleet.core.bundle import Bundle
from emberfleet.core.errors import DeviceError
from emberfleet.engine.opencl.device import OpenCLDevice, open_device
from emberfleet.runtime.runtime import Runtime
from tests.runner.building import SOURCE
from tests.runner.ember import Ember, Input
from tests.runner.pocl import prepared_library
from tests.targets.subject import Answer, Subject, UnavailableError, run, tool

FLOAT_LIMIT = 1e-5
COMPILERS = ("gcc", "clang")
PLANS = ("int8-cpu", "int8-gpu", "float32-cpu", "float32-gpu")


def opencl(subject: Subject) -> list[Answer]:
    """Our backend, and plain OpenCL calls that know nothing of it."""
    from tests.converters.opencl.other_host import OtherHost

    device, path = _device(), bundle(subject)
    runtime = Runtime.open(path, [subject.key.verify_key], "opencl")
    codes = subject.network.output_tensor.params.quantize(runtime.logits(subject.pixels))
    answers = [Answer(path, f"our OpenCL backend on {device.name}", subject.int8_agreement(codes, 0))]
    opened = Bundle.open(path, [subject.key.verify_key])
    parts = {name: opened.part(name) for name in opened.parts if name.startswith("opencl/")}
    names = [plan["name"] for plan in json.loads(parts["opencl/plan.json"])["plans"]]
    for name in names:
        host = OtherHost(device.context, parts, name)
        found = np.array([host.run_pixels(image) for image in subject.pixels])
        agreement = (
            subject.int8_agreement(found, 0)
            if name.startswith("int8")
            else subject.float_agreement(found, subject.scores, FLOAT_LIMIT)
        )
        answers.append(Answer(path, f"plan {name} by plain OpenCL calls on {device.name}", agreement))
    return answers


def runner(subject: Subject) -> list[Answer]:
    """The native runner, built by each compiler there is."""
    device, path = _device(), bundle(subject)
    keys = [subject.key.verify_key.raw]
    answers = []
    for compiler, library in _built(subject.folder):
        ember = Ember(library)
        for plan in PLANS:
            with ember.open(path, keys, opencl_library=prepared_library(), plan=plan) as model:
                found, codes = [], []
                for image in subject.pixels:
                    found.append(model.run(Input.PIXELS, image))
                    codes.append(model.codes)
            agreement = (
                subject.int8_agreement(np.array(codes), 0)
                if plan.startswith("int8")
                else subject.float_agreement(np.array(found), subject.scores, FLOAT_LIMIT)
            )
            answers.append(Answer(library, f"plan {plan} on {device.name}, built by {compiler}", agreement))
    return answers


def bundle(subject: Subject) -> Path:
    """The signed bundle, with int8 and float32 launch plans."""
    return subject.convert("ember", "digits.ember", "--opencl-float")


def _built(folder: Path) -> Iterator[tuple[str, Path]]:
    """The runner as a library, by compiler.

    Raises:
        UnavailableError: none is here.
    """
    make = tool("make")
    found = [name for name in COMPILERS if _there(name)]
    if not found:
        raise UnavailableError("no C compiler: install gcc or clang")
    for name in found:
        library = folder / "runner" / name / "libember.so"
        run([make, "-s", "-C", str(SOURCE), f"CC={name}", f"OUT={library.parent}", str(library)])
        yield name, library


def _there(name: str) -> bool:
    try:
        tool(name)
    except UnavailableError:
        return False
    return True


def _device() -> OpenCLDevice:
    try:
        return open_device()
    except DeviceError as error:
        raise UnavailableError(str(error)) from error
