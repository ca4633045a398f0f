"""`emberfleet device`: let a device into a fleet, give it samples, let it take part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emberfleet.cli.errors import CommandGroup
from emberfleet.cli.memory import MemoryLimitOption, parse_limit
from emberfleet.cli.output import JsonOption, console, print_json

if TYPE_CHECKING:
    from emberfleet.agent.agent import Agent, Turn
    from emberfleet.core.arrays import Int64, UInt8

app = typer.Typer(
    name="device",
    cls=CommandGroup,
    help="Take part in a fleet: what is learnt here is sent encrypted, the samples never are.",
    no_args_is_help=True,
)
Folder = Annotated[Path, typer.Argument(help="The device's folder.")]
MinimumCohortOption = Annotated[
    int | None,
    typer.Option(min=1, help="Fewest updates in a sum that this device takes part in; 3 unless set."),
]
AllowSealedOption = Annotated[
    bool,
    typer.Option(
        "--allow-sealed", help="Take part in sealed rounds too: they show the server this device's update."
    ),
]
BackendOption = Annotated[str, typer.Option(help="auto, opencl or numpy.")]


@app.command()
def enrol(
    folder: Folder,
    server: Annotated[str, typer.Option(help="The server's address, such as https://192.168.1.5:8470.")],
    token: Annotated[str, typer.Option(help="A one-time token.", envvar="EMBERFLEET_TOKEN")],
    name: Annotated[str, typer.Option(help="What people call this device.")] = "device",
    minimum_cohort: MinimumCohortOption = None,
    allow_sealed: AllowSealedOption = False,
) -> None:
    """Make this device's key and spend a token."""
    from emberfleet.agent.client import enrol_device
    from emberfleet.agent.identity import MINIMUM_COHORT

    identity = enrol_device(
        server,
        token,
        folder,
        name,
        minimum_cohort=MINIMUM_COHORT if minimum_cohort is None else minimum_cohort,
        allow_sealed=allow_sealed,
    )
    console().print(f"Enrolled at {identity.server} as {identity.device_id}.")


@app.command("rotate-key")
def rotate(folder: Folder) -> None:
    """Replace this device's key by a new one; the server forgets the old one."""
    from emberfleet.agent.rotation import rotate_key

    identity = rotate_key(folder)
    console().print(f"This device is {identity.device_id} from now on. Restart what runs with the old key.")


@app.command()
def pin(
    folder: Folder,
    certificate: Annotated[str, typer.Argument(help="The pin that emberfleet server pin shows.")],
) -> None:
    """Accept another certificate of the server, after its owner said that it changed."""
    from dataclasses import replace

    from emberfleet.agent.identity import Identity
    from emberfleet.core.tokens import check_pin

    replace(Identity.load(folder), pin=check_pin(certificate)).save(folder)
    console().print("From now on this certificate is the server's.")


@app.command("add-samples")
def add_samples(
    folder: Folder,
    source: Annotated[
        Path, typer.Argument(help="A folder with one sub-folder of images per class, or a .safetensors file.")
    ],
) -> None:
    """Keep images and labels on this device, to learn from."""
    from emberfleet.agent.samples import SampleStore

    store = SampleStore(folder / "samples")
    if source.is_file():
        images, labels = _read_tensors(source)
    else:
        images, labels = _read_folder(folder, source)
    count = store.add(images, labels)
    console().print(f"{count} samples added; {len(store)} in all.")


@app.command()
def run(
    folder: Folder,
    once: Annotated[bool, typer.Option("--once", help="Ask for work once, then stop.")] = False,
    backend: BackendOption = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Most threads to train with.")] = None,
    memory_limit: MemoryLimitOption = None,
    minimum_cohort: MinimumCohortOption = None,
    allow_sealed: AllowSealedOption = False,
) -> None:
    """Take part in rounds until interrupted."""
    import threading
    from dataclasses import replace

    from emberfleet.agent.rotation import finish_rotation

    finish_rotation(folder)
    agent = _agent(folder, backend, threads, parse_limit(memory_limit))
    if minimum_cohort is not None:
        agent.identity = replace(agent.identity, minimum_cohort=minimum_cohort)
    if allow_sealed:
        agent.identity = replace(agent.identity, allow_sealed=True)
    try:
        if once:
            _show(agent.run_once())
        else:
            agent.run_forever(threading.Event(), _show, lambda: _begin_anew(agent))
    finally:
        agent.close()


@app.command()
def status(folder: Folder, as_json: JsonOption = False) -> None:
    """Show who this device is, which model it has, and how many samples."""
    agent = _agent(folder)
    identity = agent.identity
    agent.close()
    facts = {
        "server": identity.server,
        "device_id": identity.device_id,
        "name": identity.name,
        "model_version": agent.models.version(),
        "serving_version": agent.models.state().serving,
        "samples": len(agent.samples),
    }
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        console().print(f"{name.replace('_', ' ')}: {value}")


def _agent(
    folder: Path,
    backend: str = "auto",
    threads: int | None = None,
    memory_limit_bytes: int | None = None,
) -> Agent:
    from emberfleet.agent.agent import Agent
    from emberfleet.agent.identity import Identity
    from emberfleet.agent.retraining import check_with, evaluate_with, retrain_with

    trusted = Identity.load(folder).trusted
    retrain = retrain_with(trusted, backend, threads, memory_limit_bytes)
    evaluate = evaluate_with(trusted, backend, threads)
    return Agent(folder, retrain, check_with(trusted), evaluate=evaluate)


def _begin_anew(agent: Agent) -> None:
    """Run this very command again in this process: what a round loaded, numpy first, is given back.

    Everything a device must remember is in its folder.
    """
    import os
    import sys

    if "numpy" in sys.modules and sys.executable and sys.orig_argv:
        agent.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def _show(turn: Turn) -> None:
    texts = {
        "new_model": f"model {turn.model_version} is here",
        "sent": f"round {turn.round_number}: update sent",
        "left": f"round {turn.round_number}: left: {turn.text}",
    }
    if turn.outcome in texts:
        console(stderr=True).print(texts[turn.outcome])


def _read_tensors(path: Path) -> tuple[UInt8, Int64]:
    """Images and labels of a file that a program made."""
    from emberfleet.agent.samples import MAX_FILE_BYTES
    from emberfleet.core.errors import DataError
    from emberfleet.core.files import read_limited
    from emberfleet.core.tensors import decode_tensors

    found = decode_tensors(read_limited(path, MAX_FILE_BYTES))
    if found.keys() != {"images", "labels"}:
        raise DataError(f"{path}: holds {', '.join(sorted(found)) or 'nothing'}, expected images and labels")
    return found["images"], found["labels"]


def _read_folder(device: Path, source: Path) -> tuple[UInt8, Int64]:
    """Images by class, brought to the size and the class order of the fleet's model."""
    import numpy as np

    from emberfleet.core.bundle import Bundle
    from emberfleet.core.errors import DataError
    from emberfleet.train.data.folder import load_folder

    agent = _agent(device)
    try:
        if agent.models.path() is None:
            agent.fetch_model()
        path = agent.models.path()
        assert path is not None
        manifest = Bundle.open(path, agent.identity.trusted).manifest
    finally:
        agent.close()
    height, width, channels = manifest.input.shape
    data = load_folder(source, "train", (height, width), channels)
    unknown = sorted(set(data.classes) - set(manifest.labels))
    if unknown:
        raise DataError(
            f"{source}: the model has no class {', '.join(unknown[:5])}; "
            f"it has {', '.join(manifest.labels[:20])}"
        )
    places = np.array([manifest.labels.index(name) for name in data.classes], np.int64)
    return data.images, places[data.labels]
