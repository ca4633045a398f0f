"""Full batches of a data set, in an order that depends on the seed and the epoch alone.

Nothing is carried from batch to batch: epoch number, step and seed say everything, so a run that
resumes from a checkpoint sees the same bits as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from emberfleet.core.arrays import Float32, Int64
from emberfleet.core.errors import ConfigError, DataError, ShapeError
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.train.data.augmentation import Augmentation, augment
from emberfleet.train.data.dataset import Dataset

ORDER_STREAM, AUGMENTATION_STREAM = 0, 1


class Batches:
    """Shuffled, preprocessed, augmented batches; the last one of an epoch wraps around to be full."""

    def __init__(
        self,
        dataset: Dataset,
        preprocessing: Preprocessing,
        batch: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        balance: bool = False,
    ) -> None:
        """Prepare to draw from `dataset`.

        Args:
            dataset: At least one image, of the size `preprocessing` takes.
            preprocessing: From pixels to what the network reads.
            batch: Images in every batch.
            augmentation: Random changes of each image; None for none.
            seed: Of the order and the augmentation; not negative.
            balance: Draw all classes that occur equally often instead of all images.

        Raises:
            DataError: The data set is empty.
            ShapeError: Its images have another size.
            ConfigError: `batch` or `seed` cannot be used, or codes are to be balanced.
        """
        if not len(dataset):
            raise DataError("the data set is empty: no batch can be drawn from it")
        if dataset.images.shape[1:] != preprocessing.shape:
            raise ShapeError(
                f"images are {dataset.images.shape[1:]}, preprocessing takes {preprocessing.shape}"
            )
        if batch < 1 or seed < 0:
            raise ConfigError(f"batch {batch} and seed {seed}: expected at least 1 and at least 0")
        if balance and dataset.positions is not None:
            raise ConfigError("classes can be balanced only where an image has one label, not a code")
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.batch = batch
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        self.balance = balance
        black = np.zeros((1, *preprocessing.shape), np.uint8)
        self._fill: Float32 = preprocessing.apply(black)[0, 0, 0]

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch: the data set's size over the batch's, rounded up."""
        return -(-len(self.dataset) // self.batch)

    def __iter__(self) -> Iterator[tuple[Float32, Int64]]:
        """Batches without end, from the first of epoch 0."""
        epoch = 0
        while True:
            yield from self.epoch(epoch)
            epoch += 1

    def epoch(self, number: int, first_step: int = 0) -> Iterator[tuple[Float32, Int64]]:
        """The batches of one epoch, from `first_step` on.

        Yields:
            ``(batch, H, W, C)`` float32 and the labels, ``(batch,)`` or ``(batch, P)`` int64.
        """
        order = self.order(number)
        for step in range(first_step, self.steps_per_epoch):
            chosen = order[step * self.batch : (step + 1) * self.batch]
            x = self.preprocessing.apply(self.dataset.images[chosen])
            generator = np.random.default_rng([self.seed, AUGMENTATION_STREAM, number, step])
            yield augment(x, self.augmentation, generator, self._fill), self.dataset.labels[chosen]

    def order(self, number: int) -> Int64:
        """``(steps_per_epoch * batch,)`` the images of epoch `number`, in their order.

        Every image comes once, and some of the first ones again at the end to fill the last batch.
        Balanced: every class equally often, give or take one, and within a class every image
        equally often, give or take one.
        """
        generator = np.random.default_rng([self.seed, ORDER_STREAM, number])
        slots = self.steps_per_epoch * self.batch
        if not self.balance:
            return np.resize(generator.permutation(len(self.dataset)), slots)
        labels = self.dataset.labels
        present = np.unique(labels)
        classes = generator.permutation(np.resize(generator.permutation(present), slots))
        order = np.empty(slots, np.int64)
        for label in present:
            places = np.flatnonzero(classes == label)
            members = generator.permutation(np.flatnonzero(labels == label))
            order[places] = np.resize(members, len(places))
        return order
