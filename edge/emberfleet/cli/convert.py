"""`emberfleet convert`: from the folder of a trained model to what a device takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emberfleet.cli.keys import KeyOption, signing_key
from emberfleet.cli.output import JsonOption, print_json
from emberfleet.cli.targets import NEEDS_NO_RANGES, SIGNED, Choices, Target, write_open, write_signed
from emberfleet.core.errors import ConversionError


def convert(
    trained: Annotated[Path, typer.Argument(help="Folder that `emberfleet train` wrote.")],
    out: Annotated[Path, typer.Option(help="The file to write, such as model.ember.")],
    to: Annotated[
        Target,
        typer.Option(
            help="ember: a signed bundle. wire: one compressed for download (`emberfleet unpack`). "
            "raspberrypi: a .deb. android: an .aar; android-app: a sample .apk. tflite: int8 throughout; "
            "tflite-int8-float-io, -float, -float16, -dynamic: other forms of it. onnx, onnx-int8: NCHW."
        ),
    ] = Target.EMBER,
    version: Annotated[int, typer.Option(min=1, help="The bundle's version; devices take newer ones.")] = 1,
    name: Annotated[str, typer.Option(help="What the model is called in its fleet and its files.")] = "model",
    key: KeyOption = None,
    opencl_float: Annotated[
        bool | None,
        typer.Option(
            "--opencl-float",
            help="For ember: float32 launch plans too, for hosts without Python: a copy of the weights.",
        ),
    ] = None,
    wheelhouse: Annotated[
        Path | None, typer.Option(help="For raspberrypi: a folder of wheels that goes into the .deb.")
    ] = None,
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
    author: Annotated[str | None, typer.Option(help="For .tflite: who made the model.")] = None,
    license: Annotated[  # noqa: A002 (the option's name)
        str | None, typer.Option(help="For .tflite: the model's licence, such as Apache-2.0.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="For .tflite: what the model is for.")] = None,
    json: JsonOption = False,
) -> None:
    """Write a trained model for a device: a signed bundle, a package around one, a .tflite or a .onnx."""
    from emberfleet.core.files import write_atomically
    from emberfleet.train.trained import TrainedModel

    choices = Choices(
        version, name, opencl_float, wheelhouse, picture, keystore, author, license, description
    )
    choices.check(to)
    model = TrainedModel.load(trained)
    if to not in NEEDS_NO_RANGES and not model.quantized:
        raise ConversionError(
            f"{trained} is in floating point only: train it with --quantize-epochs 1 or more, give it ranges "
            "with `emberfleet calibrate`, or write it with --to tflite-float or --to onnx"
        )
    if to in SIGNED:
        signer = signing_key(key)
        data, signed_by = write_signed(model, to, choices, signer), signer.verify_key.text
    else:
        data, signed_by = write_open(model, to, choices), None
    write_atomically(out, data)
    if json:
        print_json({"file": out, "bytes": len(data), "kind": to, "signed_by": signed_by})
    else:
        typer.echo(f"{out}: {len(data)} bytes" + (f", signed by {signed_by}" if signed_by else ""))
