"""What `emberfleet convert` can write, and what each kind of file is made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from emberfleet.core.errors import ConfigError

if TYPE_CHECKING:
    from emberfleet.core.signing import SigningKey, VerifyKey
    from emberfleet.train.trained import TrainedModel


class Target(Enum):
    """What can be written."""

    EMBER = "ember"
    WIRE = "wire"
    RASPBERRYPI = "raspberrypi"
    ANDROID = "android"
    ANDROID_APP = "android-app"
    TFLITE = "tflite"
    TFLITE_INT8_FLOAT_IO = "tflite-int8-float-io"
    TFLITE_FLOAT = "tflite-float"
    TFLITE_FLOAT16 = "tflite-float16"
    TFLITE_DYNAMIC = "tflite-dynamic"
    ONNX = "onnx"
    ONNX_INT8 = "onnx-int8"


NEEDS_NO_RANGES: Final = (Target.TFLITE_FLOAT, Target.TFLITE_FLOAT16, Target.TFLITE_DYNAMIC, Target.ONNX)
"""What a model without 8-bit ranges can be written as."""

SIGNED: Final = (Target.EMBER, Target.WIRE, Target.RASPBERRYPI, Target.ANDROID, Target.ANDROID_APP)
"""What holds a signed bundle."""

TFLITE: Final = (
    Target.TFLITE,
    Target.TFLITE_INT8_FLOAT_IO,
    Target.TFLITE_FLOAT,
    Target.TFLITE_FLOAT16,
    Target.TFLITE_DYNAMIC,
)


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user asked for beside the target; a field that only some targets read is None unless given."""

    version: int
    name: str
    opencl_float: bool | None = None
    wheelhouse: Path | None = None
    picture: Path | None = None
    keystore: Path | None = None
    author: str | None = None
    license: str | None = None
    description: str | None = None

    def check(self, target: Target) -> None:
        """Refuse what the target would ignore.

        Raises:
            ConfigError: an option that belongs to other targets; names it and them.
        """
        for option, targets in READERS.items():
            if getattr(self, option) is not None and target not in targets:
                kinds = ", ".join(each.value for each in targets)
                raise ConfigError(
                    f"--{option.replace('_', '-')} says nothing about --to {target.value}; it is for: {kinds}"
                )


READERS: Final[Mapping[str, tuple[Target, ...]]] = {
    "opencl_float": (Target.EMBER,),
    "wheelhouse": (Target.RASPBERRYPI,),
    "picture": (Target.ANDROID_APP,),
    "keystore": (Target.ANDROID_APP,),
    "author": TFLITE,
    "license": TFLITE,
    "description": TFLITE,
}
"""The targets that read each option."""


def write_signed(model: TrainedModel, target: Target, choices: Choices, signer: SigningKey) -> bytes:
    """A signed bundle, or what carries one."""
    from emberfleet.converters.bundle import build_bundle

    opencl_float = bool(choices.opencl_float)
    bundle = build_bundle(model, choices.version, signer, name=choices.name, opencl_float=opencl_float)
    wrap = _WRAPPERS.get(target)
    return bundle if wrap is None else wrap(bundle, signer.verify_key, choices)


def write_open(model: TrainedModel, target: Target, choices: Choices) -> bytes:
    """A file of another ecosystem, which nobody signs."""
    return _tflite(model, target, choices) if target in TFLITE else _onnx(model, target)


def _wire(bundle: bytes, key: VerifyKey, choices: Choices) -> bytes:
    from emberfleet.converters.wire import encode_wire

    return encode_wire(bundle, [key])


def _debian_package(bundle: bytes, key: VerifyKey, choices: Choices) -> bytes:
    """A package by the maintainer that Debian's own tools would name: DEBFULLNAME and DEBEMAIL."""
    from emberfleet.converters.raspberrypi.package import MAINTAINER, build_package
    from emberfleet.converters.raspberrypi.wheelhouse import read_wheelhouse

    wheels = read_wheelhouse(choices.wheelhouse) if choices.wheelhouse is not None else []
    address = os.environ.get("DEBEMAIL", "")
    author = os.environ.get("DEBFULLNAME") or address.partition("@")[0]
    return build_package(bundle, key, wheels, f"{author} <{address}>" if address else MAINTAINER)


def _android_library(bundle: bytes, key: VerifyKey, choices: Choices) -> bytes:
    from emberfleet.converters.android.aar import build_aar

    return build_aar(bundle, key)


def _android_app(bundle: bytes, key: VerifyKey, choices: Choices) -> bytes:
    from emberfleet.converters.android.apk import Sample, build_apk
    from emberfleet.train.data.folder import read_image_file

    picture = None if choices.picture is None else read_image_file(choices.picture)
    return build_apk(bundle, key, Sample(picture, choices.keystore))


_WRAPPERS: Final[Mapping[Target, Callable[[bytes, VerifyKey, Choices], bytes]]] = {
    Target.WIRE: _wire,
    Target.RASPBERRYPI: _debian_package,
    Target.ANDROID: _android_library,
    Target.ANDROID_APP: _android_app,
}


def _tflite(model: TrainedModel, target: Target, choices: Choices) -> bytes:
    """A .tflite whose metadata holds the labels, the preprocessing and what the user says of the model."""
    from emberfleet.converters.tflite.float_writer import Weights, write_tflite_float
    from emberfleet.converters.tflite.int8_writer import write_tflite_int8
    from emberfleet.converters.tflite.metadata import ModelCard
    from emberfleet.core.lowering import quantize
    from emberfleet.core.nodes import Softmax

    card = ModelCard(
        model.classes,
        model.preprocessing,
        name=choices.name,
        version=str(choices.version),
        author=choices.author or "",
        licence=choices.license or "",
        description=choices.description or "",
    )
    if target in (Target.TFLITE, Target.TFLITE_INT8_FLOAT_IO):
        network, floating = quantize(model.graph, model.tensors), target is Target.TFLITE_INT8_FLOAT_IO
        softmax = floating and isinstance(model.graph.output, Softmax)
        return write_tflite_int8(network, float_io=floating, softmax=softmax, card=card)
    weights = {Target.TFLITE_FLOAT16: Weights.FLOAT16, Target.TFLITE_DYNAMIC: Weights.DYNAMIC}
    kind = weights.get(target, Weights.FLOAT32)
    return write_tflite_float(model.graph, model.tensors, weights=kind, card=card)


def _onnx(model: TrainedModel, target: Target) -> bytes:
    from emberfleet.converters.onnx.float_writer import write_onnx_float
    from emberfleet.converters.onnx.int8_writer import write_onnx_int8
    from emberfleet.converters.onnx.metadata import describe
    from emberfleet.core.lowering import quantize

    metadata = describe(model.classes, model.preprocessing)
    if target is Target.ONNX_INT8:
        return write_onnx_int8(quantize(model.graph, model.tensors), metadata)
    return write_onnx_float(model.graph, model.tensors, metadata)
