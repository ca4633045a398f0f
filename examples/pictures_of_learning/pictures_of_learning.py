"""Three networks learn the same digits; one page shows what each of them looks at.

    python examples/pictures_of_learning/pictures_of_learning.py --out build/pictures_of_learning

A linear network, one with a hidden layer and a convolutional one, in the order in which the field
found them. Without options they learn the handwriting that the repository carries; with
``--root FOLDER`` the full MNIST in that folder.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from drawing import filters_of, scatter
from inside import evidence_maps, pooled_features, principal_axes

from emberfleet.core.files import write_atomically
from emberfleet.engine.backend import Backend
from emberfleet.engine.selection import choose_backend
from emberfleet.train.data.augmentation import Augmentation
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.data.names import load
from emberfleet.train.evaluation import worst_mistakes
from emberfleet.train.history import EpochRecord
from emberfleet.train.loop import Observer, TrainConfig
from emberfleet.train.report.html import Html, element, paragraph, table
from emberfleet.train.report.page import Figure, Section, columns, render_page, titled
from emberfleet.train.report.pictures import Picture, picture_grid
from emberfleet.train.report.svg import Series, line_chart
from emberfleet.train.report.training import duration
from emberfleet.train.trained import TrainedModel
from emberfleet.train.training import Measurement, choice_for, measure, parameter_count, train_model

HANDWRITING = Path(__file__).resolve().parents[1] / "data" / "handwriting"
SHOWN_POINTS = 1200
SHOWN_MISTAKES = 10
MAP_SIDE = 84


@dataclass(frozen=True)
class Step:
    """One network of the progression.

    Attributes:
        model: Name in `emberfleet.train.models`.
        title: Name on the page.
        words: What it is, in a sentence.
        epochs: On the handwriting of the repository, and on MNIST with eight times the images.
        rate: Highest learning rate.
        augmentation: Random changes of the training images.
    """

    model: str
    title: str
    words: str
    epochs: tuple[int, int]
    rate: float
    augmentation: Augmentation = Augmentation()  # noqa: RUF009  (frozen)

    def config(self, seed: int, epochs: int) -> TrainConfig:
        """In floating point only: the pictures show the weights as they are."""
        return TrainConfig(
            epochs=epochs, quantize_epochs=0, rate=self.rate, augmentation=self.augmentation, seed=seed
        )


# The larger networks get images that are shifted and turned at random, so that they cannot learn
# them by heart. The linear one is too small for that and only gets worse by it.
STEPS = (
    Step(
        "linear",
        "Linear",
        "One weight for each pixel and digit: the network compares an image with ten templates.",
        epochs=(12, 5),
        rate=1e-3,
    ),
    Step(
        "two_layer",
        "Two layers",
        "64 templates first, then a mixture of them for each digit.",
        epochs=(16, 8),
        rate=2e-3,
        augmentation=Augmentation(shift=1.0),
    ),
    Step(
        "small",
        "Convolutional",
        "A small SqueezeNet: its first filters see 3 x 3 pixels and are slid over the whole image.",
        epochs=(10, 4),
        rate=3e-3,
        augmentation=Augmentation(shift=2.0, rotation_degrees=10.0, scale=0.1, shear=0.1),
    ),
)


@dataclass(frozen=True)
class Learnt:
    """What came of one step."""

    step: Step
    model: TrainedModel
    measured: Measurement
    seconds: float


class Narrator(Observer):
    """Says on the terminal how far the training is."""

    def on_epoch(self, record: EpochRecord) -> None:
        """One line for each epoch."""
        held_out = (record.validation_accuracy or 0.0) * 100
        print(f"  epoch {record.epoch:2d}  loss {record.loss:.3f}  held out {held_out:5.2f} %", flush=True)


def learn(step: Step, config: TrainConfig, train: Dataset, test: Dataset, backend: Backend) -> Learnt:
    """Train one network and measure it on images it has never seen."""
    print(f"{step.title}: {step.words}")
    learning, held_out = train.split(0.05, config.seed)
    started = time.perf_counter()
    model = train_model(
        step.model, choice_for(train), learning, held_out, config, backend, observers=[Narrator()]
    )
    seconds = time.perf_counter() - started
    measured = measure(model, test, backend)
    print(f"  {measured.evaluation.accuracy * 100:.2f} % of {len(test):,} test images, {seconds:.1f} s")
    return Learnt(step, model, measured, seconds)


def progression(learnt: list[Learnt]) -> Html:
    """The three networks in figures, and how their mistakes shrink while they learn."""
    rows = [
        (
            entry.step.title,
            f"{parameter_count(entry.model):,}",
            f"{entry.measured.evaluation.accuracy * 100:.2f} %",
            f"{(1 - entry.measured.evaluation.accuracy) * 100:.2f} %",
            duration(entry.seconds),
        )
        for entry in learnt
    ]
    curves = [
        Series(entry.step.title, [(r.epoch, r.validation_accuracy or 0.0) for r in entry.model.history])
        for entry in learnt
    ]
    chart = line_chart(curves, "epoch", "accuracy on held-out images", percent=True)
    return columns(table(["network", "parameters", "right", "wrong", "training"], rows), chart)


def first_layers(learnt: list[Learnt]) -> list[Html]:
    """The first weights of each network as pictures."""
    grids = []
    for entry in learnt:
        layer = next(name for name in entry.model.tensors if name.endswith("/weight"))
        images = filters_of(entry.model.tensors[layer])
        names = entry.model.classes if entry.step.model == "linear" else ()
        pictures = [Picture(image, names[n] if names else "") for n, image in enumerate(images)]
        side = 72 if entry.step.model == "linear" else 56 if entry.step.model == "two_layer" else 48
        grids.append(_block(f"{entry.step.title}: {entry.step.words}", picture_grid(pictures, side)))
    return grids


def where_it_looks(learnt: Learnt, test: Dataset, backend: Backend) -> list[Html]:
    """Class activation maps: one right answer for each class, then the worst mistakes."""
    order = np.argsort(-learnt.measured.logits, axis=1)
    first, second = order[:, 0], order[:, 1]
    right = [np.flatnonzero((test.labels == k) & (first == k))[:1] for k in range(len(test.classes))]
    chosen = np.concatenate(right)
    maps = evidence_maps(backend, learnt.model, test.images[chosen], first[chosen], second[chosen])
    shown = [
        Picture(image, test.classes[first[n]], f"and not {test.classes[second[n]]}", "good")
        for n, image in zip(chosen, maps, strict=True)
    ]
    parts = [_block("Right answers, against the second choice", picture_grid(shown, MAP_SIDE))]
    mistakes = worst_mistakes(learnt.measured.logits, test.labels, SHOWN_MISTAKES)
    if mistakes:
        at = np.array([m.index for m in mistakes])
        true, given = np.array([m.true for m in mistakes]), np.array([m.predicted for m in mistakes])
        maps = evidence_maps(backend, learnt.model, test.images[at], given, true)
        wrong = [
            Picture(image, f"{test.classes[m.true]} \u2192 {test.classes[m.predicted]}",
                    f"{m.confidence * 100:.0f} % sure", "bad")
            for image, m in zip(maps, mistakes, strict=True)
        ]  # fmt: skip
        parts.append(_block("The worst mistakes, against the truth", picture_grid(wrong, MAP_SIDE)))
    return parts


def map_of_the_test_set(learnt: Learnt, test: Dataset, backend: Backend) -> list[Html]:
    """The test images as points: what the last layer sees, on the two axes of most variance."""
    features = pooled_features(backend, learnt.model, test.images)
    points, share = principal_axes(features, 2)
    order = np.random.default_rng(0).permutation(len(test))[:SHOWN_POINTS]
    picture = scatter(points[order], test.labels[order], test.classes)
    words = (
        f"{len(order):,} of {len(test):,} test images. The two axes hold {share * 100:.0f} % of the variance "
        f"of {features.shape[1]} features: digits that lie on each other here may be apart in the rest."
    )
    return [picture, paragraph(words, quiet=True)]


def page(learnt: list[Learnt], train: Dataset, test: Dataset, name: str, backend: Backend) -> str:
    """The whole report."""
    best = learnt[-1]
    figures = [
        Figure(
            entry.step.title,
            f"{entry.measured.evaluation.accuracy * 100:.2f} %",
            f"{parameter_count(entry.model):,} parameters",
        )
        for entry in learnt
    ]
    sections = [
        Section("From linear to convolutional", [progression(learnt)], _HELD_OUT),
        Section(
            "The first weights as pictures",
            first_layers(learnt),
            "Orange where ink speaks for a template, blue where it speaks against it.",
        ),
        Section(
            "Where the convolutional network looks",
            where_it_looks(best, test, backend),
            "The last convolution scores every place of the image for every digit, and the answer is the "
            "mean over all places. Orange places argue for the answer, blue ones for the other digit. The "
            "maps are coarse: there are 7 x 7 scores for an image.",
        ),
        Section("How the convolutional network orders the digits", map_of_the_test_set(best, test, backend)),
    ]
    lead = f"Three networks on {name}: {len(train):,} images to learn from, {len(test):,} to test on."
    return render_page("Pictures of learning", lead, figures, sections)


def _block(title: str, part: Html) -> Html:
    return element("div", titled(title, part), style="margin-bottom:22px")


_HELD_OUT = (
    "Right and wrong are of the test images, which other people wrote. The curves show images held out of "
    "the training: they come from the same people, so they flatter."
)


def main() -> None:
    """Read the options, train, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder with the four files of MNIST")
    parser.add_argument("--out", type=Path, default=Path("build/pictures_of_learning"))
    parser.add_argument("--epochs", type=int, help="epochs for every network, instead of its own number")
    parser.add_argument("--limit", type=int, help="use only so many images of each part, for a quick look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="auto", help="auto, opencl or numpy")
    options = parser.parse_args()

    name, root = ("handwriting", HANDWRITING) if options.root is None else ("mnist", options.root)
    train, test = load(name, root, "train"), load(name, root, "test")
    if options.limit:
        generator = np.random.default_rng(options.seed)
        train = train.subset(generator.permutation(len(train))[: options.limit])
        test = test.subset(generator.permutation(len(test))[: options.limit])
    backend = choose_backend(options.backend)
    learnt = []
    for step in STEPS:
        epochs = options.epochs or step.epochs[0 if options.root is None else 1]
        learnt.append(learn(step, step.config(options.seed, epochs), train, test, backend))
    options.out.mkdir(parents=True, exist_ok=True)
    report = options.out / "report.html"
    write_atomically(report, page(learnt, train, test, name, backend).encode())
    print(f"pictures: {report}")


if __name__ == "__main__":
    main()
