"""`emberfleet import`: a network from PyTorch, Keras or elsewhere, by way of ONNX."""

from __future__ import annotations

import math
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emberfleet.cli.output import JsonOption, console, print_json
from emberfleet.core.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from emberfleet.converters.onnx.importer import ImportedNetwork
    from emberfleet.converters.onnx.model import Pixels
    from emberfleet.train.trained import TrainedModel

MAX_LABELS_BYTES = 4 << 20


class Convention(Enum):
    """What networks expect of pixels, by the names of `converters.onnx.model.CONVENTIONS`."""

    IMAGENET = "imagenet"
    CAFFE = "caffe"
    TF = "tf"
    UNIT = "unit"
    NONE = "none"


def import_model(
    model: Annotated[Path, typer.Argument(help="The .onnx file.")],
    out: Annotated[Path, typer.Option(help="Folder that takes the model, as `emberfleet train` writes it.")],
    labels: Annotated[
        Path | None, typer.Option(help="Text file, one class a line. Default: their numbers.")
    ] = None,
    preprocess: Annotated[
        Convention | None,
        typer.Option(
            help="It reads: imagenet (torchvision), caffe (BGR less a mean), tf (-1 to 1), unit (0 to 1) "
            "or none (0 to 255)."
        ),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Instead: it reads (pixel / 255 - mean) / std; 0.5,0.5,0.5.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Goes with --mean; 0.25,0.25,0.25.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Side in pixels, where the file leaves it open.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of photos like those it will see: makes it ready for 8 bits.")
    ] = None,
    photos: Annotated[int, typer.Option(min=1, max=4096, help="Most photos of --calibrate to use.")] = 256,
    threads: Annotated[int | None, typer.Option(min=1, help="Most processor threads.")] = None,
    json: JsonOption = False,
) -> None:
    """Read a classification network from a .onnx file and write it to a folder, as training does.

    `emberfleet convert` then makes a bundle of it.
    """
    from emberfleet.converters.onnx.file import MAX_FILE_BYTES
    from emberfleet.converters.onnx.importer import import_onnx
    from emberfleet.converters.onnx.model import model_of_network
    from emberfleet.core.files import read_limited

    pixels = _pixels(preprocess, mean, std)
    network = import_onnx(read_limited(model, MAX_FILE_BYTES), None if size is None else (size, size))
    trained = model_of_network(network, pixels, None if labels is None else _read_labels(labels))
    observed = 0
    if calibrate is not None:
        trained, observed = _calibrated(trained, calibrate, photos, threads)
    trained.save(out)
    if json:
        print_json(_facts(network, trained, out, observed))
    else:
        _show(network, trained, out, observed)


def _pixels(convention: Convention | None, mean: str | None, std: str | None) -> Pixels | None:
    from emberfleet.converters.onnx.model import CONVENTIONS, Pixels

    if (mean is None) != (std is None) or (mean is not None and convention is not None):
        raise ConfigError("give --preprocess, or --mean and --std together")
    if mean is not None and std is not None:
        return Pixels(_numbers("--mean", mean), _numbers("--std", std))
    return None if convention is None else CONVENTIONS[convention.value]


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} is '{text}', expected numbers separated by commas") from error
    if not all(math.isfinite(value) for value in found) or (option == "--std" and min(found) <= 0):
        raise ConfigError(f"{option} is '{text}', expected finite numbers, those of --std above 0")
    return found


def _read_labels(path: Path) -> tuple[str, ...]:
    from emberfleet.core.files import read_limited

    try:
        lines = read_limited(path, MAX_LABELS_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text: {error}") from error
    names = tuple(line.strip() for line in lines)
    while names and not names[-1]:
        names = names[:-1]
    if not all(names):
        raise FormatError(f"{path}: line {names.index('') + 1} is empty, expected one class a line")
    return names


def _calibrated(
    trained: TrainedModel, folder: Path, limit: int, threads: int | None
) -> tuple[TrainedModel, int]:
    """The model made ready for 8 bits with photos, and how many there were."""
    from emberfleet.train.calibration.model import Calibration, calibrate_model
    from emberfleet.train.data.photos import load_photos

    height, width, channels = trained.preprocessing.shape
    images = load_photos(folder, (height, width), channels, limit)
    with console(stderr=True).status(f"Calibrating with {len(images)} photos"):
        return calibrate_model(trained, images, Calibration(threads=threads)), len(images)


def _facts(network: ImportedNetwork, model: TrainedModel, out: Path, observed: int) -> dict[str, object]:
    return {
        "model": out,
        "producer": network.producer,
        "opset": network.opset,
        "operators": network.operators,
        "nodes": len(network.graph.nodes),
        "parameters": network.parameters,
        "folded": network.folded,
        "remarks": list(network.remarks),
        "input": list(model.preprocessing.shape),
        "mean": list(model.preprocessing.mean),
        "std": list(model.preprocessing.std),
        "classes": len(model.classes),
        "quantized": model.quantized,
        "photos": observed,
    }


def _show(network: ImportedNetwork, model: TrainedModel, out: Path, observed: int) -> None:
    height, width, channels = model.preprocessing.shape
    folded = ", ".join(f"{what} {count}" for what, count in network.folded.items()) or "nothing"
    ready = (
        f"ready: calibrated with {observed} photos"
        if model.quantized
        else "not ready, float only (--to onnx, tflite-float): `emberfleet calibrate` or --calibrate helps"
    )
    for remark in network.remarks:
        typer.echo(f"note: {remark}", err=True)
    typer.echo(
        f"model       {out}\n"
        f"network     {len(network.graph.nodes)} nodes from {network.operators} operators of "
        f"{network.producer or 'an unnamed exporter'}, opset {network.opset}\n"
        f"parameters  {network.parameters:,}\n"
        f"image       {height} x {width} x {channels} to {len(model.classes)} classes\n"
        f"folded      {folded}\n"
        f"8 bits      {ready}"
    )
