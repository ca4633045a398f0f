"""`emberfleet convert`: from the folder of a trained model to what a device takes."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emberfleet.cli.keys import KeyOption, signing_key
from emberfleet.cli.output import JsonOption, print_json
from emberfleet.core.errors import ConversionError

if TYPE_CHECKING:
    from emberfleet.core.signing import SigningKey
    from emberfleet.train.trained import TrainedModel


class Target(Enum):
    """What can be written."""

    EMBER = "ember"
    TFLITE = "tflite"
    TFLITE_INT8_FLOAT_IO = "tflite-int8-float-io"
    TFLITE_FLOAT = "tflite-float"
    TFLITE_FLOAT16 = "tflite-float16"
    TFLITE_DYNAMIC = "tflite-dynamic"
    ONNX = "onnx"
    ONNX_INT8 = "onnx-int8"
    RASPBERRYPI = "raspberrypi"
    ANDROID = "android"
    ANDROID_APP = "android-app"
    WIRE = "wire"


NEEDS_NO_RANGES = (Target.TFLITE_FLOAT, Target.TFLITE_FLOAT16, Target.TFLITE_DYNAMIC, Target.ONNX)


def convert(
    trained: Annotated[Path, typer.Argument(help="Folder that `emberfleet train` wrote.")],
    out: Annotated[Path, typer.Option(help="The file to write, such as model.ember.")],
    to: Annotated[
        Target,
        typer.Option(
            help="A signed bundle, a .tflite or .onnx (int8 or float32), a .deb for Raspberry Pi OS, an .aar "
            "for Android, a wire file (a bundle compressed for download; `emberfleet unpack`)."
        ),
    ] = Target.EMBER,
    version: Annotated[int, typer.Option(min=1, help="The bundle's version; devices take newer ones.")] = 1,
    key: KeyOption = None,
    wheelhouse: Annotated[
        Path | None, typer.Option(help="For raspberrypi: a folder of wheels that goes into the .deb.")
    ] = None,
    opencl_float: Annotated[
        bool,
        typer.Option(
            "--opencl-float",
            help="For ember: float32 launch plans too, for hosts without Python: a copy of the weights.",
        ),
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="For android-app: the PNG or JPEG that the app classifies.")
    ] = None,
    keystore: Annotated[
        Path | None,
        typer.Option(
            help="For android-app: PKCS#12 file of who signs the app, its password in "
            "EMBERFLEET_KEYSTORE_PASSWORD; a key made for this one file if left out."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="For .tflite: the model's name in the metadata.")] = "model",
    author: Annotated[str, typer.Option(help="For .tflite: who made the model.")] = "",
    licence: Annotated[
        str, typer.Option("--license", help="For .tflite: the model's licence, such as Apache-2.0.")
    ] = "",
    description: Annotated[str, typer.Option(help="For .tflite: what the model is for.")] = "",
    json: JsonOption = False,
) -> None:
    """Write a trained model as a signed bundle for devices, or as a .tflite or .onnx."""
    from emberfleet.core.files import write_atomically
    from emberfleet.train.trained import TrainedModel

    model = TrainedModel.load(trained)
    if to not in NEEDS_NO_RANGES and not model.quantized:
        raise ConversionError(
            f"{trained} is in floating point only: train it with --quantize-epochs 1 or more, import it with "
            "--calibrate, or write it with --to tflite-float or --to onnx"
        )
    if to is Target.EMBER:
        from emberfleet.converters.bundle import build_bundle

        signer = signing_key(key)
        data = build_bundle(model, version, signer, opencl_float=opencl_float)
        signed_by = signer.verify_key.text
    elif to is Target.WIRE:
        from emberfleet.converters.bundle import build_bundle
        from emberfleet.converters.wire import encode_wire

        signer = signing_key(key)
        data = encode_wire(build_bundle(model, version, signer), [signer.verify_key])
        signed_by = signer.verify_key.text
    elif to is Target.RASPBERRYPI:
        signer = signing_key(key)
        data = _debian_package(model, version, signer, wheelhouse)
        signed_by = signer.verify_key.text
    elif to is Target.ANDROID:
        signer = signing_key(key)
        data = _android_library(model, version, signer)
        signed_by = signer.verify_key.text
    elif to is Target.ANDROID_APP:
        signer = signing_key(key)
        data = _android_app(model, version, signer, picture, keystore)
        signed_by = signer.verify_key.text
    elif to in (Target.ONNX, Target.ONNX_INT8):
        signed_by = None
        data = _onnx(model, to)
    else:
        signed_by = None
        data = _tflite(model, to, name=name, version=str(version), author=author, licence=licence,
                       description=description)  # fmt: skip
    write_atomically(out, data)
    if json:
        print_json({"file": out, "bytes": len(data), "kind": to, "signed_by": signed_by})
    else:
        typer.echo(f"{out}: {len(data)} bytes" + (f", signed by {signed_by}" if signed_by else ""))


def _tflite(model: TrainedModel, to: Target, **texts: str) -> bytes:
    """A .tflite whose metadata holds the labels, the preprocessing and `texts`, fields of a `ModelCard`."""
    from emberfleet.converters.tflite.float_writer import Weights, write_tflite_float
    from emberfleet.converters.tflite.int8_writer import write_tflite_int8
    from emberfleet.converters.tflite.metadata import ModelCard
    from emberfleet.core.graph import Softmax
    from emberfleet.core.integer import quantize

    card = ModelCard(model.classes, model.preprocessing, **texts)
    if to is Target.TFLITE:
        return write_tflite_int8(quantize(model.graph, model.tensors), card=card)
    if to is Target.TFLITE_INT8_FLOAT_IO:
        softmax = isinstance(model.graph.output, Softmax)
        network = quantize(model.graph, model.tensors)
        return write_tflite_int8(network, float_io=True, softmax=softmax, card=card)
    weights = {Target.TFLITE_FLOAT16: Weights.FLOAT16, Target.TFLITE_DYNAMIC: Weights.DYNAMIC}
    return write_tflite_float(model.graph, model.tensors, weights=weights.get(to, Weights.FLOAT32), card=card)


def _onnx(model: TrainedModel, to: Target) -> bytes:
    from emberfleet.converters.onnx.float_writer import write_onnx_float
    from emberfleet.converters.onnx.int8_writer import write_onnx_int8
    from emberfleet.converters.onnx.metadata import describe
    from emberfleet.core.integer import quantize

    metadata = describe(model.classes, model.preprocessing)
    if to is Target.ONNX_INT8:
        return write_onnx_int8(quantize(model.graph, model.tensors), metadata)
    return write_onnx_float(model.graph, model.tensors, metadata)


def _debian_package(model: TrainedModel, version: int, signer: SigningKey, wheelhouse: Path | None) -> bytes:
    """A package by the maintainer that Debian's own tools would name: DEBFULLNAME and DEBEMAIL."""
    from emberfleet.converters.bundle import build_bundle
    from emberfleet.converters.raspberrypi.package import MAINTAINER, build_package
    from emberfleet.converters.raspberrypi.wheelhouse import read_wheelhouse

    wheels = read_wheelhouse(wheelhouse) if wheelhouse is not None else []
    address = os.environ.get("DEBEMAIL", "")
    maintainer = (
        f"{os.environ.get('DEBFULLNAME') or address.partition('@')[0]} <{address}>" if address else MAINTAINER
    )
    return build_package(build_bundle(model, version, signer), signer.verify_key, wheels, maintainer)


def _android_library(model: TrainedModel, version: int, signer: SigningKey) -> bytes:
    from emberfleet.converters.android.aar import build_aar
    from emberfleet.converters.bundle import build_bundle

    return build_aar(build_bundle(model, version, signer), signer.verify_key)


def _android_app(
    model: TrainedModel, version: int, signer: SigningKey, picture: Path | None, keystore: Path | None
) -> bytes:
    from emberfleet.converters.android.apk import Sample, build_apk
    from emberfleet.converters.bundle import build_bundle
    from emberfleet.train.data.folder import read_image_file

    sample = Sample(None if picture is None else read_image_file(picture), keystore)
    return build_apk(build_bundle(model, version, signer), signer.verify_key, sample)
