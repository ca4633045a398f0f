"""Settings that work well for each data set by name; every one can be overridden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emberfleet.engine.optimizers import (
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Optimizer,
    RmsProp,
    Sgd,
)
from emberfleet.train.data.augmentation import Augmentation
from emberfleet.train.loop import TrainConfig

OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Sgd(momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adagrad": Adagrad(),
    "adadelta": Adadelta(),
    "rmsprop": RmsProp(momentum=0.9),
    "adam": Adam(),
    "adamw": AdamW(weight_decay=0.02),
}
"""Each optimizer by name, with constants that suit small networks."""

RATES: Mapping[str, float] = {
    "sgd": 0.1, "adagrad": 0.02, "adadelta": 1.0, "rmsprop": 1e-3, "adam": 3e-3, "adamw": 3e-3,
}  # fmt: skip
"""A first learning rate for each optimizer, for a batch of 64."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What `emberfleet train --data NAME` does when nothing else is said.

    Attributes:
        config: The loop's settings.
        model: Name in `models.MODELS`.
        width: Multiplies the channels of the small family.
        dropout: Before the last convolution.
        validation: Share of the training images held out.
        test: Share put aside for testing where a data set has no test split.
    """

    config: TrainConfig
    model: str = "small"
    width: float = 1.0
    dropout: float = 0.0
    validation: float = 0.05
    test: float = 0.15


_ADAMW = OPTIMIZERS["adamw"]
_DIGITS = Augmentation(shift=2.0, rotation_degrees=10.0, scale=0.1, shear=0.1)

RECIPES: Mapping[str, Recipe] = {
    "mnist": Recipe(TrainConfig(epochs=18, quantize_epochs=2, optimizer=_ADAMW, augmentation=_DIGITS)),
    "handwriting": Recipe(
        TrainConfig(epochs=20, quantize_epochs=4, batch=32, optimizer=_ADAMW, augmentation=_DIGITS),
        width=0.75,
        validation=0.1,
    ),
    "fashion-mnist": Recipe(
        TrainConfig(
            epochs=22, quantize_epochs=2, optimizer=_ADAMW,
            augmentation=Augmentation(shift=1.5, flip=True, scale=0.05),
        ),
        width=1.5,
    ),
    "cifar10": Recipe(
        TrainConfig(
            epochs=30, quantize_epochs=4, optimizer=_ADAMW,
            augmentation=Augmentation(crop_padding=4, flip=True),
        ),
        width=1.5,
    ),
}  # fmt: skip

PHOTOS = Recipe(
    TrainConfig(
        epochs=30, quantize_epochs=5, batch=32, optimizer=_ADAMW, patience=8,
        augmentation=Augmentation(shift=3.0, rotation_degrees=8.0, scale=0.15, erase=0.2),
    ),
    dropout=0.2,
    validation=0.15,
)  # fmt: skip
"""For folders and zips of one's own pictures. No flips: a mirrored character is another one."""


def recipe_for(name: str) -> Recipe:
    """The recipe of a data set by name."""
    return RECIPES.get(name, PHOTOS)
