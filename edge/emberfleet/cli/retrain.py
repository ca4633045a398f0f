"""`emberfleet retrain`: a bundle that has learnt from one's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emberfleet.cli.keys import KeyOption, TrustOption, signing_key, trusted_keys
from emberfleet.cli.memory import MemoryLimitOption, memory_facts, memory_words, parse_limit
from emberfleet.cli.output import JsonOption, console, print_json


def retrain(
    bundle: Annotated[Path, typer.Argument(help="The bundle to start from.")],
    data: Annotated[Path, typer.Option(help="Folder with one sub-folder of images per class.")],
    out: Annotated[Path, typer.Option(help="The new bundle.")],
    scope: Annotated[str, typer.Option(help="What learns: head, last-2-fires (or 1, 3 ...), full.")] = "head",
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = 20,
    batch: Annotated[int, typer.Option(help="Images per step.")] = 16,
    rate: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.01,
    optimizer: Annotated[str, typer.Option(help="sgd, adagrad, adadelta, rmsprop, adam or adamw.")] = "sgd",
    hold_out: Annotated[float, typer.Option(help="Share of the images that judge the result.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the order, dropout and the split.")] = 0,
    backend: Annotated[str, typer.Option(help="auto, opencl or numpy.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Most processor threads.")] = None,
    memory_limit: MemoryLimitOption = None,
    trust: TrustOption = None,
    key: KeyOption = None,
    json: JsonOption = False,
) -> None:
    """Retrain a bundle on a folder of images and write the next version of it, signed by you.

    A result that does worse on the images held out is not written; the command then ends with code 1.
    """
    from emberfleet.converters.bundle import build_bundle
    from emberfleet.core.files import write_atomically
    from emberfleet.engine.memory import TrainingMemory
    from emberfleet.runtime.retraining import MemoryBudget, RetrainPlan
    from emberfleet.runtime.runtime import Runtime
    from emberfleet.train.data.folder import load_folder

    remarks = console(stderr=True)
    taken: list[TrainingMemory] = []

    def tell(memory: TrainingMemory) -> None:
        taken.append(memory)
        if memory_limit is not None:
            remarks.print(memory_words(memory), soft_wrap=True)

    budget = MemoryBudget(parse_limit(memory_limit), tell)
    plan = RetrainPlan(scope, epochs, batch, rate, optimizer, hold_out=hold_out, seed=seed)
    runtime = Runtime.open(bundle, trusted_keys(trust), backend, threads=threads)
    height, width, channels = runtime.preprocessing.shape
    samples = load_folder(data, "train", (height, width), channels)
    with remarks.status(f"Retraining on {len(samples)} images"):
        result = runtime.retrain(samples, plan, budget=budget)
    if result.accepted:
        new = build_bundle(result.model, runtime.version + 1, signing_key(key), parent=runtime.bundle.digest)
        write_atomically(out, new)
    if json:
        print_json(
            {
                "accepted": result.accepted,
                "before": result.before.accuracy,
                "after": result.after.accuracy,
                "samples": result.samples,
                "classes": list(result.model.classes),
                "file": out if result.accepted else None,
                "memory": memory_facts(taken[-1]),
            }
        )
    else:
        typer.echo(result.reason + (f"\n{out}: version {runtime.version + 1}" if result.accepted else ""))
    if not result.accepted:
        raise typer.Exit(1)
