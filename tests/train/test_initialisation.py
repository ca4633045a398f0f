"""First weights have the right size, and are the same for the same seed."""

from __future__ import annotations

import numpy as np

from emberfleet.core.preprocessing import Preprocessing
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.models import small_squeezenet

PIXELS = Preprocessing(28, 28, 1, (0.5,), (0.25,))


def test_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    graph = small_squeezenet()
    first, again, other = (initial_tensors(graph, seed, PIXELS) for seed in (3, 3, 4))
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert first["conv1/weight"].tobytes() != other["conv1/weight"].tobytes()


def test_weights_have_the_variance_that_keeps_activations_alive() -> None:
    weight = initial_tensors(small_squeezenet(), 0, PIXELS)["fire6/expand3x3/weight"]
    assert np.isclose(weight.std(), np.sqrt(2 / (9 * 32)), rtol=0.05)
    assert abs(float(weight.mean())) < 0.01


def test_last_layer_starts_small_and_batch_norm_as_the_identity() -> None:
    tensors = initial_tensors(small_squeezenet(), 0, PIXELS)
    assert tensors["head/weight"].std() < 0.02
    assert (tensors["norm1/gamma"] == 1).all()
    assert (tensors["norm1/variance"] == 1).all()
    assert (tensors["norm1/beta"] == 0).all()
    assert (tensors["norm1/mean"] == 0).all()


def test_adding_a_layer_leaves_the_weights_of_others_as_they_were() -> None:
    plain, bypassed = (initial_tensors(small_squeezenet(dropout=d), 1, PIXELS) for d in (0.0, 0.5))
    assert all(plain[name].tobytes() == bypassed[name].tobytes() for name in plain)


def test_input_range_is_what_preprocessing_can_produce() -> None:
    assert initial_tensors(small_squeezenet(), 0, PIXELS)["input/range"].tolist() == [-2.0, 2.0]
