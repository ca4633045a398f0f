"""`emberfleet run`: what a model says about images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emberfleet.cli.keys import TrustOption, trusted_keys
from emberfleet.cli.output import JsonOption, print_json

if TYPE_CHECKING:
    from emberfleet.core.arrays import UInt8
    from emberfleet.core.preprocessing import Preprocessing


def run(
    bundle: Annotated[Path, typer.Argument(help="The bundle, such as model.ember.")],
    images: Annotated[list[Path], typer.Argument(help="JPEG or PNG files.")],
    backend: Annotated[str, typer.Option(help="auto, litert, opencl or numpy.")] = "auto",
    precision: Annotated[str, typer.Option(help="int8, or float on opencl and numpy.")] = "int8",
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each image.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Most processor threads.")] = None,
    trust: TrustOption = None,
    json: JsonOption = False,
) -> None:
    """Show the most probable classes of images; they are scaled and cut to the model's size."""
    from emberfleet.runtime.runtime import Runtime

    runtime = Runtime.open(bundle, trusted_keys(trust), backend, precision, threads)
    prediction = runtime.predict(read_images(images, runtime.preprocessing))
    best = prediction.top(top)
    if json:
        print_json(
            {
                "backend": runtime.backend,
                "version": runtime.version,
                "images": [
                    {
                        "file": path,
                        "labels": list(labels),
                        "top": [[{"label": n, "probability": p} for n, p in place] for place in places],
                    }
                    for path, labels, places in zip(images, prediction.labels(), best, strict=True)
                ],
            }
        )
        return
    for path, places in zip(images, best, strict=True):
        for place, classes in enumerate(places):
            where = f"{path}" if len(places) == 1 else f"{path} [{place}]"
            typer.echo(f"{where}: " + ", ".join(f"{name} {p:.1%}" for name, p in classes))


def read_images(paths: list[Path], preprocessing: Preprocessing) -> UInt8:
    """Image files as ``(N, H, W, C)`` pixels of the model's size."""
    import numpy as np

    from emberfleet.train.data.folder import read_image_file
    from emberfleet.train.data.images import decode_image

    height, width, channels = preprocessing.shape
    return np.stack(
        [decode_image(read_image_file(path), str(path), (height, width), channels) for path in paths]
    )
