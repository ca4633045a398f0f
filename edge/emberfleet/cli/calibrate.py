"""`emberfleet calibrate`: a model in floating point made ready for 8 bits with photos."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from emberfleet.cli.output import JsonOption, console, print_json

SHOWN = 8


class Method(Enum):
    """How ranges are chosen."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"
    POOLS = "pools"


def calibrate(
    trained: Annotated[Path, typer.Argument(help="Folder of a model, from `train` or `import`.")],
    images: Annotated[Path, typer.Option(help="Folder of photos like those it will see.")],
    out: Annotated[Path, typer.Option(help="Folder that takes the model with its ranges.")],
    photos: Annotated[int, typer.Option(min=1, max=4096, help="Most photos to use.")] = 256,
    method: Annotated[Method, typer.Option(help="How the ranges of activations are chosen.")] = Method.MINMAX,
    percentile: Annotated[float, typer.Option(help="For percentile: share that stays, in per cent.")] = 99.99,
    equalise: Annotated[bool, typer.Option(help="Bring channels to like ranges.")] = True,
    spread: Annotated[bool, typer.Option(help="Give global average pools a range of their own.")] = True,
    clip: Annotated[bool, typer.Option(help="Clip weights where their squared error is least.")] = False,
    rounding: Annotated[bool, typer.Option(help="Round weights by what their inputs look like.")] = True,
    bias: Annotated[bool, typer.Option(help="Put back the means that rounding shifts.")] = True,
    compact: Annotated[
        int | None, typer.Option(min=1, help="Coarser weights that take so many bytes on the wire.")
    ] = None,
    sensitivity: Annotated[
        Path | None, typer.Option(help="Picture (.svg) of what each tensor alone loses in 8 bits.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Most processor threads.")] = None,
    json: JsonOption = False,
) -> None:
    """Choose the 8-bit ranges of a model, and weights that lose least in 8 bits, with photos alone."""
    from emberfleet.core.files import write_atomically
    from emberfleet.train.calibration.compact import compact_model
    from emberfleet.train.calibration.model import Calibration, calibrate_model
    from emberfleet.train.calibration.sensitivity import draw_sensitivity, measure_sensitivity
    from emberfleet.train.data.photos import load_photos
    from emberfleet.train.trained import TrainedModel

    model = TrainedModel.load(trained)
    height, width, channels = model.preprocessing.shape
    pictures = load_photos(images, (height, width), channels, photos)
    options = Calibration(method.value, percentile, True, equalise, spread, clip, rounding, bias, threads)
    with console(stderr=True).status(f"Calibrating with {len(pictures)} photos"):
        if compact is None:
            ready = calibrate_model(model, pictures, options)
        else:
            ready = compact_model(model, pictures, compact, options)
    ready.save(out)
    found = []
    if sensitivity is not None:
        with console(stderr=True).status("Rounding each tensor alone"):
            found = measure_sensitivity(ready, ready.preprocessing.apply(pictures), threads)
        write_atomically(sensitivity, draw_sensitivity(found).encode())
    if json:
        rows = [{"tensor": one.tensor, "signal_to_noise_db": one.signal_to_noise_db} for one in found]
        print_json({"folder": out, "photos": len(pictures), "sensitivity": rows})
        return
    typer.echo(f"{out}: calibrated with {len(pictures)} photos")
    for one in found[:SHOWN]:
        typer.echo(f"  {one.tensor}: {one.signal_to_noise_db:.1f} dB")
