"""Turn the published SqueezeNet 1.1 into a model of ours, in int8 without losing photos, and send it small.

    python examples/imagenet_squeezenet/imagenet_squeezenet.py SQUEEZENET --calibrate CATS_DOGS --test SAMPLES

SQUEEZENET is the folder with the published weights. With ``--calibrate``, a folder of photos (images.zip and
labels.csv), the model gets its 8-bit ranges; with ``--test``, a folder of labelled ImageNet photos, every
precision says how many it knows; ``--target-bytes`` also makes a compact model for the wire.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import photos
import published

from emberfleet.converters.bundle import build_bundle
from emberfleet.converters.wire import encode_wire
from emberfleet.core.arrays import Float32, Int64, UInt8
from emberfleet.core.errors import EmberError
from emberfleet.core.files import write_atomically
from emberfleet.core.lowering import quantize
from emberfleet.core.signing import SigningKey
from emberfleet.engine.selection import choose_backend
from emberfleet.train.calibration.compact import compact_model
from emberfleet.train.calibration.model import calibrate_model
from emberfleet.train.evaluation import softmax
from emberfleet.train.trained import TrainedModel

CAR_CLASSES = (817, 511, 479, 751, 436)
"""Those that both published results list."""
BATCH = 8


def main() -> int:
    """Do what the options say; 1 and one line where a file is missing or damaged."""
    options = read_options()
    try:
        facts = make(options)
    except EmberError as error:
        print(f"imagenet_squeezenet: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(facts, indent=1))
    return 0


def make(options: argparse.Namespace) -> dict[str, Any]:
    """Convert, calibrate, compress and measure; returns what was found."""

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    model = published.read_published(options.folder)
    model.save(options.out / "float")
    say(f"{options.out / 'float'}: {sum(v.size for v in model.tensors.values()):,} numbers, in float32")
    facts: dict[str, Any] = {"float": str(options.out / "float"), "photos": {}}
    car = options.folder / "car.png"
    if car.is_file():
        facts["car"] = car_probabilities(model, car, options.backend)
        say("car.png: " + ", ".join(f"{k} {p:.4f}" for k, p in facts["car"].items()))
    test = None if options.test is None else photos.read_imagenet(options.test, published.SIDE)
    measured(facts, "float32", float_logits(model, test, options.backend), test, say)
    if options.calibrate is None:
        return facts
    images, _ = photos.read_labelled(options.calibrate, "label", published.SIDE, options.photos)
    say(f"calibrating on {len(images)} photos of {options.calibrate}")
    key = SigningKey.generate()
    wanted = {"int8": lambda: calibrate_model(model, images)}
    if options.target_bytes is not None:
        wanted["compact"] = lambda: compact_model(model, images, options.target_bytes)
    for name, made in wanted.items():
        ready = made()
        ready.save(options.out / name)
        bundle = build_bundle(ready, 1, key, options.out / f"{name}.ember", name="squeezenet-1.1")
        wire = encode_wire(bundle, [key.verify_key])
        write_atomically(options.out / f"{name}.emberwire", wire)
        facts[name] = {"bundle_bytes": len(bundle), "wire_bytes": len(wire)}
        say(f"{options.out / name}.ember: {len(bundle):,} bytes, {len(wire):,} on the wire")
        measured(facts, name, int8_logits(ready, test, options.backend), test, say)
    say(f"signed with a key made for this run: {key.verify_key.text}")
    return facts


def float_logits(model: TrainedModel, test: tuple[UInt8, Int64] | None, backend: str) -> Float32 | None:
    """The scores of the test photos in float32."""
    if test is None:
        return None
    predictor = choose_backend(backend).predictor(model.graph, model.tensors, BATCH)
    return predictor.run(model.preprocessing.apply(test[0]))


def int8_logits(model: TrainedModel, test: tuple[UInt8, Int64] | None, backend: str) -> Float32 | None:
    """The scores of the test photos in int8."""
    if test is None:
        return None
    predictor = choose_backend(backend).integer_predictor(quantize(model.graph, model.tensors), BATCH)
    return predictor.run(model.preprocessing.apply(test[0]))


def car_probabilities(model: TrainedModel, path: Path, backend: str) -> dict[int, float]:
    """What the published programs print for ``car.png``: the picture stretched, no mean taken off."""
    pixels = photos.stretched(path, published.SIDE).astype(np.float32)
    predictor = choose_backend(backend).predictor(model.graph, model.tensors, 1)
    found = softmax(predictor.run(pixels))[0]
    return {k: float(found[k]) for k in CAR_CLASSES}


def measured(
    facts: dict[str, Any], name: str, logits: Float32 | None, test: tuple[UInt8, Int64] | None, say: Any
) -> None:
    """Count the photos whose class is the first, and among the first five."""
    if logits is None or test is None:
        return
    count = len(test[1])
    # Scores in 8 bits are often equal: of equal ones the first class wins, as in `Prediction`.
    order = np.argsort(-logits, axis=1, kind="stable")
    top = {k: int((order[:, :k] == test[1][:, None]).any(axis=1).sum()) for k in (1, 5)}
    facts["photos"][name] = {"of": count, "top_1": top[1], "top_5": top[5]}
    say(f"{name}: top-1 {top[1] / count:.1%}, top-5 {top[5] / count:.1%} of {count} photos")


def read_options() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with " + ", ".join(published.FILES))
    parser.add_argument(
        "--calibrate", type=Path, help="folder of photos that the 8-bit ranges are taken from"
    )
    parser.add_argument("--photos", type=int, default=600, help="most of them to use")
    parser.add_argument("--test", type=Path, help="folder of ImageNet photos with class_index")
    parser.add_argument(
        "--target-bytes", type=int, help="also a compact model whose weights take so many bytes"
    )
    parser.add_argument("--out", type=Path, default=Path("build/imagenet_squeezenet"))
    parser.add_argument("--backend", default="auto", help="auto, opencl or numpy")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON, and nothing else")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
