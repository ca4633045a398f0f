"""`emberfleet train`: from a data set by name to a folder with a trained model and its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emberfleet.cli.bench_tune import tune_training
from emberfleet.cli.memory import MemoryLimitOption, make_memory_observer, memory_facts, parse_limit
from emberfleet.cli.output import JsonOption, console, print_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from emberfleet.engine.memory import TrainingMemory
    from emberfleet.train.data.dataset import Dataset
    from emberfleet.train.history import EpochRecord
    from emberfleet.train.loop import Observer, TrainConfig
    from emberfleet.train.recipes import Recipe
    from emberfleet.train.trained import TrainedModel
    from emberfleet.train.training import Measurement

REPORT_FILE = "report.html"
EVENTS_FOLDER = "events"
CHECKPOINTS_FOLDER = "checkpoints"
SHOWN_MISTAKES = 36


def train(
    data: Annotated[str, typer.Option(help="mnist, fashion-mnist, cifar10, handwriting, folder or zip.")],
    root: Annotated[Path, typer.Option(help="Folder of the data set's files; for zip, the file.")],
    out: Annotated[Path, typer.Option(help="Folder that takes the model and its report.")],
    download: Annotated[bool, typer.Option("--download", help="Fetch missing files first.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="small, squeezenet_1_0, squeezenet_1_1, mobilenet, resnet_8, resnet_14, resnet_20, linear, "
            "two_layer."
        ),
    ] = None,
    width: Annotated[
        float | None, typer.Option(help="Multiplies the channels of 'small', MobileNets and ResNets.")
    ] = None,
    bypass: Annotated[bool, typer.Option("--bypass", help="Add shortcuts around fires of 'small'.")] = False,
    batch_norm: Annotated[bool, typer.Option(help="Batch norm in 'small'.")] = True,
    dropout: Annotated[float | None, typer.Option(help="Share dropped before the last layer.")] = None,
    size: Annotated[int | None, typer.Option(help="Side in pixels that images are brought to.")] = None,
    channels: Annotated[int, typer.Option(help="Of folder and zip: 1 for grey, 3 for colour.")] = 3,
    codes: Annotated[
        bool, typer.Option("--codes", help="Labels of a zip are codes, one class per character.")
    ] = False,
    label_column: Annotated[
        list[str] | None, typer.Option(help="Column of a zip's labels.csv; several make one code.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs in floating point.")] = None,
    quantize_epochs: Annotated[
        int | None, typer.Option(help="Epochs with fake quantization after them.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="sgd, adagrad, adadelta, rmsprop, adam or adamw.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    quantize_rate: Annotated[float | None, typer.Option(help="The same with fake quantization.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine, constant or step.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="Epochs over which the rate rises.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of a label spread over all classes.")
    ] = None,
    balance: Annotated[bool, typer.Option("--balance", help="Draw all classes equally often.")] = False,
    augment: Annotated[bool, typer.Option(help="Change training images at random.")] = True,
    validation: Annotated[float | None, typer.Option(help="Share of the training images held out.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without progress before stopping; 0: never.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Use only so many training images, for a quick trial.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and dropout.")] = 0,
    backend: Annotated[str, typer.Option(help="auto, opencl or numpy.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Most processor threads.")] = None,
    memory_limit: MemoryLimitOption = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="First find OpenCL's fastest tiles for it, as 'bench tune' does.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    json: JsonOption = False,
) -> None:
    """Train a network on a data set and write model, report and event files to a folder.

    What is left out comes from the data set's recipe. The same options and seed give the same model.
    """
    from emberfleet.engine.selection import choose_backend
    from emberfleet.train.models import build_model
    from emberfleet.train.recipes import recipe_for
    from emberfleet.train.training import choice_for, measure, train_model, with_figures

    remarks = console(stderr=True)
    limit_bytes = parse_limit(memory_limit)
    recipe = recipe_for(data)
    config = _configure(
        recipe, optimizer, rate, augment,
        epochs=epochs, quantize_epochs=quantize_epochs, batch=batch, quantize_rate=quantize_rate,
        schedule=schedule, warmup_epochs=warmup_epochs, label_smoothing=label_smoothing,
        balance=balance or None, patience=patience, seed=seed,
    )  # fmt: skip
    if download:
        _download(data, root, remarks)
    everyone, test = _read(
        data, root, size, channels, tuple(label_column or ("label",)), codes, recipe, limit, seed
    )
    share = recipe.validation if validation is None else validation
    learning, held_out = everyone.split(share, seed)
    choice = choice_for(
        learning,
        width=recipe.width if width is None else width,
        batch_norm=batch_norm,
        bypass=bypass,
        dropout=recipe.dropout if dropout is None else dropout,
    )
    place = choose_backend(backend, threads)
    remarks.print(
        f"{len(learning):,} images to learn from, {len(held_out):,} held out, {len(test):,} to test on; "
        f"computing with {place.name}",
        soft_wrap=True,
    )
    if tune:
        graph = build_model(model or recipe.model, choice)
        with remarks.status("Tuning"):
            words = tune_training(place.name, graph, config.batch, threads)
        remarks.print(words, soft_wrap=True)
    with _Observers(remarks, out / EVENTS_FOLDER, limit_bytes is not None) as observers:
        trained = train_model(
            model or recipe.model, choice, learning, held_out if len(held_out) else None, config, place,
            observers.all, out / CHECKPOINTS_FOLDER, resume, {"data": data}, limit_bytes,
        )  # fmt: skip
    with remarks.status("Testing"):
        measured = measure(trained, test, place)
    trained = with_figures(trained, measured.figures())
    trained.save(out)
    _report(trained, data, test, measured, out)
    summary = _summary(trained, out, observers.memory)
    if json:
        print_json(summary)
    else:
        _show(summary)


def _configure(
    recipe: Recipe, optimizer: str | None, rate: float | None, augment: bool, **given: Any
) -> TrainConfig:
    """The recipe's settings, overridden by what was given."""
    from emberfleet.core.errors import ConfigError
    from emberfleet.train.data.augmentation import Augmentation
    from emberfleet.train.recipes import OPTIMIZERS, RATES

    changes = {name: value for name, value in given.items() if value is not None}
    if optimizer is not None:
        if optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer '{optimizer}' is unknown; choose one of: {', '.join(OPTIMIZERS)}")
        changes |= {"optimizer": OPTIMIZERS[optimizer], "rate": RATES[optimizer]}
    if rate is not None:
        changes["rate"] = rate
    if not augment:
        changes["augmentation"] = Augmentation()
    return replace(recipe.config, **changes)


def _download(name: str, root: Path, remarks: Console) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from emberfleet.train.data.download import fetch

    bars: dict[str, TaskID] = {}
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=remarks) as progress:

        def report(file: str, done: int, total: int) -> None:
            if file not in bars:
                bars[file] = progress.add_task(file, total=total)
            progress.update(bars[file], completed=done)

        fetch(name, root, report)


def _read(
    name: str, root: Path, size: int | None, channels: int, columns: tuple[str, ...], codes: bool,
    recipe: Recipe, limit: int | None, seed: int,
) -> tuple[Dataset, Dataset]:  # fmt: skip
    """Training and test images; a part of the former where the data set has no test split."""
    import numpy as np

    from emberfleet.core.errors import ConfigError
    from emberfleet.train.data.archive import Labelling
    from emberfleet.train.data.names import SPLITS, load

    def read(split: str) -> Dataset:
        return load(name, root, split, size=size, channels=channels, labelling=Labelling(columns, codes))

    data = read("train")
    if "test" in SPLITS[name] or (name == "folder" and (root / "test").is_dir()):
        test = read("test")
    else:
        data, test = data.split(recipe.test, seed)
    if limit is not None:
        if limit < 1:
            raise ConfigError(f"limit is {limit}, expected 1 or more")
        order = np.random.default_rng(seed).permutation(len(data))
        data = data.subset(np.sort(order[:limit]))
    if not len(data) or not len(test):
        raise ConfigError(f"{len(data)} images to learn from and {len(test)} to test on are too few")
    return data, test


class _Observers:
    """Progress on the terminal, and event files where tensorboardX is installed."""

    def __init__(self, remarks: Console, events: Path, tell_memory: bool) -> None:
        from emberfleet.train.tensorboard import EventObserver, events_available

        self._bar = _progress(remarks)
        self._events = EventObserver(events) if events_available() else None
        if self._events is None:
            remarks.print("no event files for TensorBoard: pip install 'emberfleet[train]'", soft_wrap=True)
        self.memory: dict[str, TrainingMemory] = {}
        telling = make_memory_observer(self.memory, remarks if tell_memory else None)
        self.all: list[Observer] = [make_progress_observer(self._bar), telling]
        if self._events is not None:
            self.all.append(self._events)

    def __enter__(self) -> _Observers:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if self._events is not None:
            self._events.close()


def _progress(remarks: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
        console=remarks,
    )


def make_progress_observer(bar: Progress) -> Observer:
    """An observer that moves one bar per phase and writes one line per epoch above it."""
    from emberfleet.train.loop import Observer

    class ProgressObserver(Observer):
        task: TaskID | None = None

        def on_phase(self, name: str, epochs_done: int, epochs: int, steps_per_epoch: int) -> None:
            if self.task is not None:
                bar.remove_task(self.task)
            words = "training in 8 bits" if name == "quantized" else "training"
            total, done = epochs * steps_per_epoch, epochs_done * steps_per_epoch
            self.task = bar.add_task(words, total=total, completed=done, loss="")

        def on_step(self, step: int, loss: float, rate: float) -> None:
            assert self.task is not None
            bar.update(self.task, completed=step + 1, loss=f"loss {loss:.4f}")

        def on_epoch(self, record: EpochRecord) -> None:
            held_out = record.validation_accuracy
            accuracy = "" if held_out is None else f"  validation {held_out * 100:6.2f} %"
            phase = "8 bits" if record.phase == "quantized" else "float "
            bar.console.print(
                f"epoch {record.epoch:3d}  {phase}  loss {record.loss:.4f}{accuracy}  {record.seconds:5.1f} s"
            )

    return ProgressObserver()


def _report(model: TrainedModel, name: str, test: Dataset, measured: Measurement, out: Path) -> None:
    from emberfleet.core.files import write_atomically
    from emberfleet.train.evaluation import worst_mistakes
    from emberfleet.train.report.training import training_report

    mistakes = worst_mistakes(measured.logits, test.labels, SHOWN_MISTAKES)
    page = training_report(model, name, test, measured.evaluation, mistakes)
    write_atomically(out / REPORT_FILE, page.encode())


def _summary(model: TrainedModel, out: Path, memory: dict[str, TrainingMemory]) -> dict[str, object]:
    from emberfleet.train.training import parameter_count

    return {
        "model": out,
        "report": out / REPORT_FILE,
        "quantized": model.quantized,
        "parameters": parameter_count(model),
        "epochs": len(model.history),
        "seconds": sum(record.seconds for record in model.history),
        "memory": {phase: memory_facts(taken) for phase, taken in memory.items()},
        **model.figures,
    }


def _show(summary: dict[str, object]) -> None:
    from rich.markup import escape

    out = console()
    kind = "in 8 bits" if summary["quantized"] else "in floating point"
    out.print(f"[bold]{float(str(summary['test_accuracy'])) * 100:.2f} %[/] right on the test images, {kind}")
    out.print(f"model   {escape(str(summary['model']))}", soft_wrap=True)
    out.print(f"report  {escape(str(summary['report']))}", soft_wrap=True)
