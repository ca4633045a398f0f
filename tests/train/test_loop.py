"""A network learns, stops in time, goes on to the same bits, and survives quantization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.arrays import Float32
from emberfleet.core.errors import ConfigError, DeviceError
from emberfleet.core.graph import Graph
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.quantization import quantization_points
from emberfleet.engine.backend import Backend
from emberfleet.engine.optimizers import Adam, Sgd
from emberfleet.engine.selection import choose_backend
from emberfleet.train.data.augmentation import Augmentation
from emberfleet.train.data.dataset import Dataset
from emberfleet.train.evaluation import evaluate
from emberfleet.train.history import EpochRecord
from emberfleet.train.initialisation import initial_tensors
from emberfleet.train.loop import Observer, TrainConfig, fit, predict

PIXELS = Preprocessing(8, 8, 1)
QUICK = TrainConfig(
    epochs=6, quantize_epochs=3, batch=16, optimizer=Adam(), rate=0.02, calibration_images=64, seed=5
)


class PowerCutError(Exception):
    """Ends a run between two epochs."""


class StopAfter(Observer):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch(self, record: EpochRecord) -> None:
        if record.epoch == self.epochs:
            raise PowerCutError


class Notes(Observer):
    def __init__(self) -> None:
        self.phases: list[tuple[str, int, int, int]] = []
        self.steps: list[tuple[int, float]] = []
        self.epochs: list[EpochRecord] = []

    def on_phase(self, name: str, epochs_done: int, epochs: int, steps_per_epoch: int) -> None:
        self.phases.append((name, epochs_done, epochs, steps_per_epoch))

    def on_step(self, step: int, loss: float, rate: float) -> None:
        self.steps.append((step, rate))

    def on_epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)


def start(graph: Graph) -> dict[str, Float32]:
    return initial_tensors(graph, 0, PIXELS)


def same_bits(a: dict[str, Float32], b: dict[str, Float32]) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_a_separable_set_is_learnt_and_stays_learnt_in_8_bits(
    tiny_graph: Graph, train_images: Dataset, other_images: Dataset, numpy_backend: Backend
) -> None:
    result = fit(tiny_graph, start(tiny_graph), PIXELS, train_images, other_images, QUICK, numpy_backend)
    last_float = [r for r in result.history if r.phase == "float"][-1]
    quantized = [r for r in result.history if r.phase == "quantized"]
    assert last_float.validation_accuracy is not None
    assert last_float.validation_accuracy >= 0.95
    assert quantized[-1].validation_accuracy is not None
    assert abs(quantized[-1].validation_accuracy - last_float.validation_accuracy) <= 0.03
    assert len({r.loss for r in quantized}) == len(quantized)
    logits = predict(numpy_backend, tiny_graph, result.tensors, PIXELS, other_images, fake_quantize=True)
    best = max(r.validation_accuracy or 0.0 for r in quantized)
    assert evaluate(logits, other_images.labels).accuracy == best


def test_quantized_phase_leaves_a_range_at_every_point_and_the_inputs_as_it_was(
    tiny_graph: Graph, train_images: Dataset, numpy_backend: Backend
) -> None:
    config = TrainConfig(epochs=1, quantize_epochs=1, batch=16, rate=0.01)
    result = fit(tiny_graph, start(tiny_graph), PIXELS, train_images, None, config, numpy_backend)
    assert set(quantization_points(tiny_graph).values()) <= set(result.tensors)
    assert result.tensors["input/range"].tolist() == [0.0, 1.0]
    unquantized = fit(
        tiny_graph, start(tiny_graph), PIXELS, train_images, None,
        TrainConfig(epochs=1, quantize_epochs=0, batch=16, rate=0.01), numpy_backend,
    )  # fmt: skip
    assert "relu2/range" not in unquantized.tensors


@pytest.mark.parametrize("stop", [1, 2, 4, 5], ids=lambda n: f"after epoch {n}")
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    stop: int,
    tmp_path: Path,
    tiny_graph: Graph,
    train_images: Dataset,
    other_images: Dataset,
    numpy_backend: Backend,
) -> None:
    config = TrainConfig(
        epochs=4, quantize_epochs=2, batch=20, optimizer=Sgd(momentum=0.9), rate=0.05, seed=3,
        augmentation=Augmentation(shift=0.5),
    )  # fmt: skip
    parts = (tiny_graph, start(tiny_graph), PIXELS, train_images, other_images, config, numpy_backend)
    whole = fit(*parts)
    with pytest.raises(PowerCutError):
        fit(*parts, observers=[StopAfter(stop)], checkpoints=tmp_path)
    notes = Notes()
    resumed = fit(*parts, observers=[notes], checkpoints=tmp_path, resume=True)
    assert same_bits(dict(whole.tensors), dict(resumed.tensors))
    assert len(notes.epochs) == 6 - stop
    assert [(r.loss, r.validation_loss) for r in whole.history] == [
        (r.loss, r.validation_loss) for r in resumed.history
    ]


def test_a_run_on_opencl_that_was_stopped_goes_on_to_the_same_bits(
    tmp_path: Path, tiny_graph: Graph, train_images: Dataset, other_images: Dataset
) -> None:
    try:
        backend = choose_backend("opencl", threads=1)
    except DeviceError as error:
        pytest.skip(f"no OpenCL here: {error}")
    config = TrainConfig(epochs=2, quantize_epochs=2, batch=20, rate=0.01, seed=3)
    parts = (tiny_graph, start(tiny_graph), PIXELS, train_images, other_images, config, backend)
    whole = fit(*parts)
    with pytest.raises(PowerCutError):
        fit(*parts, observers=[StopAfter(3)], checkpoints=tmp_path)
    resumed = fit(*parts, checkpoints=tmp_path, resume=True)
    assert same_bits(dict(whole.tensors), dict(resumed.tensors))


def test_same_seed_gives_the_same_bits_and_another_seed_others(
    tiny_graph: Graph, train_images: Dataset, numpy_backend: Backend
) -> None:
    def run(seed: int) -> dict[str, Float32]:
        config = TrainConfig(epochs=1, quantize_epochs=1, batch=16, seed=seed)
        parts = (tiny_graph, start(tiny_graph), PIXELS, train_images, None, config, numpy_backend)
        return dict(fit(*parts).tensors)

    assert same_bits(run(1), run(1))
    assert not same_bits(run(1), run(2))


def test_a_checkpoint_of_other_settings_is_not_taken(
    tmp_path: Path, tiny_graph: Graph, train_images: Dataset, other_images: Dataset, numpy_backend: Backend
) -> None:
    config = TrainConfig(epochs=1, quantize_epochs=0, batch=16)
    parts = (tiny_graph, start(tiny_graph), PIXELS)
    fit(*parts, train_images, None, config, numpy_backend, checkpoints=tmp_path)
    longer = TrainConfig(epochs=2, quantize_epochs=0, batch=16)
    with pytest.raises(ConfigError, match="config differ"):
        fit(*parts, train_images, None, longer, numpy_backend, checkpoints=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="training data differ"):
        fit(*parts, other_images, None, config, numpy_backend, checkpoints=tmp_path, resume=True)


def test_patience_ends_a_phase_and_keeps_its_best_epoch(
    tiny_graph: Graph, train_images: Dataset, other_images: Dataset, numpy_backend: Backend
) -> None:
    config = TrainConfig(
        epochs=40, quantize_epochs=0, batch=16, optimizer=Sgd(), rate=0.5, patience=3, schedule="constant",
        warmup_epochs=0,
    )  # fmt: skip
    result = fit(tiny_graph, start(tiny_graph), PIXELS, train_images, other_images, config, numpy_backend)
    scores = [(r.validation_accuracy or 0.0, -(r.validation_loss or 0.0)) for r in result.history]
    best = scores.index(max(scores))
    assert result.stopped_early
    assert len(scores) == best + 1 + 3
    logits = predict(numpy_backend, tiny_graph, result.tensors, PIXELS, other_images)
    assert -evaluate(logits, other_images.labels).loss == scores[best][1]


def test_without_held_out_images_the_last_epoch_is_kept(
    tiny_graph: Graph, train_images: Dataset, numpy_backend: Backend
) -> None:
    config = TrainConfig(epochs=2, quantize_epochs=0, batch=16, patience=1)
    result = fit(tiny_graph, start(tiny_graph), PIXELS, train_images, None, config, numpy_backend)
    assert len(result.history) == 2
    assert not result.stopped_early
    assert result.history[-1].validation_accuracy is None


def test_observers_see_phases_steps_and_epochs_in_order(
    tiny_graph: Graph, train_images: Dataset, numpy_backend: Backend
) -> None:
    notes = Notes()
    config = TrainConfig(epochs=2, quantize_epochs=1, batch=40, rate=0.01, warmup_epochs=1)
    ticks = iter(range(100))
    result = fit(
        tiny_graph, start(tiny_graph), PIXELS, train_images, None, config, numpy_backend, [notes],
        clock=lambda: float(next(ticks)),
    )  # fmt: skip
    assert notes.phases == [("float", 0, 2, 3), ("quantized", 0, 1, 3)]
    assert [step for step, _ in notes.steps] == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert [rate for _, rate in notes.steps][:3] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01])
    assert notes.steps[6][1] == pytest.approx(0.001)
    assert tuple(notes.epochs) == result.history
    assert [record.seconds for record in result.history] == [1.0, 1.0, 1.0]


def test_a_loss_that_is_not_finite_ends_training_with_advice(
    tiny_graph: Graph, train_images: Dataset, numpy_backend: Backend
) -> None:
    tensors = start(tiny_graph) | {"head/bias": np.array([np.inf, 0, 0], np.float32)}
    with np.errstate(all="ignore"), pytest.raises(ConfigError, match="lower rate"):
        fit(tiny_graph, tensors, PIXELS, train_images, None, QUICK, numpy_backend)


def test_data_of_another_size_or_class_count_is_refused_before_training(
    tiny_graph: Graph, train_images: Dataset, numpy_backend: Backend
) -> None:
    larger = Dataset(np.zeros((4, 9, 9, 1), np.uint8), np.zeros(4, np.int64), train_images.classes)
    with pytest.raises(ConfigError, match=r"\(9, 9, 1\)"):
        fit(tiny_graph, start(tiny_graph), PIXELS, larger, None, QUICK, numpy_backend)
    more = Dataset(train_images.images, train_images.labels, ("a", "b", "c", "d"))
    with pytest.raises(ConfigError, match="4 classes"):
        fit(tiny_graph, start(tiny_graph), PIXELS, train_images, more, QUICK, numpy_backend)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0, "quantize_epochs": 0}, {"epochs": -1}, {"rate": 0.0}, {"quantize_rate": float("inf")},
     {"patience": -1}, {"calibration_images": 0}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(**wrong)  # type: ignore[arg-type]
