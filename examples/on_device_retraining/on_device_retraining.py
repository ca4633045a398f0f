"""Teach a model one's own classes with a few pictures of each: retrain its last layer, before and after.

    python examples/on_device_retraining/on_device_retraining.py
    python examples/on_device_retraining/on_device_retraining.py --photos FOLDER

Without options: the model has learnt to read the digits 0 to 7. Somebody shows it ten pictures of
each of the ten digits, 8 and 9 among them, and digits of sixty other people say how well it reads now.
With ``--photos``, a folder with one sub-folder of pictures for each class takes their place.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from emberfleet.converters.bundle import build_bundle
from emberfleet.core.files import write_atomically
from emberfleet.core.signing import SigningKey
from emberfleet.engine.backend import Backend
from emberfleet.engine.selection import choose_backend
from emberfleet.runtime import RetrainPlan, Runtime
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.folder import load_folder
from emberfleet.train.data.names import load
from emberfleet.train.evaluation import Evaluation
from emberfleet.train.loop import TrainConfig
from emberfleet.train.recipes import recipe_for
from emberfleet.train.report.pictures import encode_png
from emberfleet.train.training import choice_for, measure, train_model

HANDWRITING = Path(__file__).resolve().parents[1] / "data" / "handwriting"
KNOWN_DIGITS = 8
PICTURES_PER_CLASS = 10
SHOWING_PEOPLE = 30
KEPT_APART = 0.5


def main() -> None:
    """Make the base model and the pictures, retrain, and say what changed."""
    options = read_options()
    options.out.mkdir(parents=True, exist_ok=True)
    engine = choose_backend(options.backend)
    everyone = load("handwriting", HANDWRITING, "train")
    devices = load("handwriting", HANDWRITING, "devices")
    assert everyone.writers is not None
    assert devices.writers is not None
    is_showing = np.isin(everyone.writers, np.unique(devices.writers)[-SHOWING_PEOPLE:])

    print("Training the base model on the digits 0 to 7.", flush=True)
    key = SigningKey.generate()
    bundle = options.out / "base.ember"
    base = everyone.subset(~is_showing & (everyone.labels < KNOWN_DIGITS))
    base = Dataset(base.images, base.labels, base.classes[:KNOWN_DIGITS])
    recipe = recipe_for("handwriting")
    config = TrainConfig(
        epochs=options.epochs, quantize_epochs=2, batch=32, augmentation=recipe.config.augmentation
    )
    model = train_model("small", choice_for(base, width=recipe.width), base, None, config, engine)
    build_bundle(model, 1, key, bundle, name="digits")

    photos = options.photos
    if photos is None:
        photos = options.out / "photos"
        write_photos(photos / "train", a_few_of_each(everyone.subset(is_showing)))
        write_photos(photos / "test", load("handwriting", HANDWRITING, "test"))

    # From here on it is what a device does: open the bundle, which checks its signature, and retrain.
    runtime = Runtime.open(bundle, [key.verify_key], options.backend)
    learn_from, kept_apart = read_photos(photos, runtime)
    print(
        f"The model knows {', '.join(runtime.classes)}. The pictures show {', '.join(learn_from.classes)}: "
        f"{len(learn_from)} to learn from, {len(kept_apart):,} to judge by.",
        flush=True,
    )
    known = runtime.classes
    started = time.perf_counter()
    plan = RetrainPlan(options.scope, epochs=20, rate=0.01, shift=1.0, rotation_degrees=5.0, scale=0.05)
    result = runtime.retrain(learn_from, plan, kept_apart)
    seconds = time.perf_counter() - started

    print(f"\nbefore:  {in_words(result.before, learn_from.classes, known)}")
    print(f"after:   {in_words(result.after, learn_from.classes, known)}, {seconds:.1f} s ({options.scope})")
    if options.from_scratch:
        alone = from_scratch(learn_from, kept_apart, config, engine)
        print(f"a new network on the same pictures alone:  {alone.accuracy * 100:.1f} % right")
    if not result.accepted:
        print("It got worse, so the runtime goes on with the old weights, and nothing is written.")
        return
    retrained = options.out / "retrained.ember"
    write_atomically(retrained, build_bundle(result.model, runtime.version + 1, key, name="retrained"))
    print(f"\nThe retrained model, a bundle again: {retrained}")
    picture = kept_apart.images[:1]
    truth, answer = kept_apart.classes[kept_apart.labels[0]], runtime.predict(picture).labels()[0][0]
    print(f"The first picture kept apart shows {truth}; the model, on {runtime.backend}, says {answer}.")


def a_few_of_each(data: Dataset) -> Dataset:
    """Ten pictures of each class, drawn with a fixed seed."""
    generator = np.random.default_rng(0)
    chosen = [
        generator.permutation(np.flatnonzero(data.labels == k))[:PICTURES_PER_CLASS]
        for k in range(len(data.classes))
    ]
    return data.subset(np.concatenate(chosen))


def write_photos(folder: Path, data: Dataset) -> None:
    """Images as PNG files, one sub-folder for each class: how a user's own photos lie on the disk."""
    for n, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        path = folder / data.classes[label] / f"{n:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image))


def read_photos(folder: Path, runtime: Runtime) -> tuple[Dataset, Dataset]:
    """Pictures to learn from, and those kept apart: the sub-folder ``test``, or half of all."""
    height, width, channels = runtime.preprocessing.shape
    pictures = load_folder(folder, "train", (height, width), channels)
    if (folder / "test").is_dir():
        return pictures, load_folder(folder, "test", (height, width), channels)
    return pictures.split(KEPT_APART, seed=0)


def in_words(found: Evaluation, classes: tuple[str, ...], known: tuple[str, ...]) -> str:
    """The accuracy, over all classes, over those that the model knew and over the new ones."""
    right, total = found.confusion.diagonal(), found.confusion.sum(axis=1)
    old = np.array([name in known for name in classes])
    text = f"{found.accuracy * 100:5.1f} % right"
    if old.any() and not old.all():
        shares = [right[part].sum() / total[part].sum() * 100 for part in (old, ~old)]
        text += f" (known classes {shares[0]:.1f} %, new ones {shares[1]:.1f} %)"
    return text


def from_scratch(
    learn_from: Dataset, kept_apart: Dataset, config: TrainConfig, engine: Backend
) -> Evaluation:
    """What a network reaches that starts from nothing and sees the same pictures, for far longer."""
    longer = replace(config, epochs=60, quantize_epochs=5, batch=16)
    width = recipe_for("handwriting").width
    model = train_model("small", choice_for(learn_from, width=width), learn_from, None, longer, engine)
    return measure(model, kept_apart, engine).evaluation


def read_options() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder with one sub-folder of pictures for each class")
    parser.add_argument("--scope", default="head", help="what learns: head, last-2-fires or full")
    parser.add_argument("--from-scratch", action="store_true", help="compare with a new network")
    parser.add_argument("--epochs", type=int, default=6, help="of the base model")
    parser.add_argument("--out", type=Path, default=Path("build/on_device_retraining"))
    parser.add_argument("--backend", default="auto", help="auto, opencl or numpy: where it is trained")
    return parser.parse_args()


if __name__ == "__main__":
    main()
