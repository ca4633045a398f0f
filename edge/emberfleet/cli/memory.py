"""The memory limit of training on the command line: sizes read, and what keeping to it costs said."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from emberfleet.engine.memory import TrainingMemory
    from emberfleet.train.loop import Observer

MemoryLimitOption = Annotated[
    str | None,
    typer.Option(help="Most memory for values in training, such as 64M: values are computed twice to fit."),
]
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
SHOWN_MODULES = 6

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([KMG]?)(?:iB|B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of a size such as ``500K``, ``64M``, ``1.5G`` or ``4096``; K, M and G count in 1024s.

    Raises:
        ConfigError: not a size, or less than a byte.
    """
    from emberfleet.core.errors import ConfigError

    found = _SIZE.fullmatch(text.strip())
    size = math.floor(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise ConfigError(f"'{text}' is no size: write a number above 0 with K, M or G, such as 500K or 64M")
    return size


def parse_limit(text: str | None) -> int | None:
    """Bytes of a `MemoryLimitOption`; None: no limit."""
    return None if text is None else parse_size(text)


def size_words(size_bytes: float) -> str:
    """A size for people: ``512 bytes``, ``1.5 MiB``."""
    if size_bytes < UNITS["K"]:
        return f"{size_bytes:.0f} bytes"
    unit = "G" if size_bytes >= UNITS["G"] else "M" if size_bytes >= UNITS["M"] else "K"
    return f"{size_bytes / UNITS[unit]:.4g} {unit}iB"


def memory_words(memory: TrainingMemory) -> str:
    """One sentence: what values take in a training step, under which limit, and what that costs."""
    limit = "" if memory.limit_bytes is None else f" of at most {size_words(memory.limit_bytes)}"
    text = f"Memory for values: {size_words(memory.arena.size_bytes)}{limit}"
    if not memory.recomputed:
        return f"{text}; nothing is computed twice"
    modules = list(dict.fromkeys(name.partition("/")[0] for name in memory.recomputed))
    shown = ", ".join(modules[:SHOWN_MODULES])
    more = f" and {len(modules) - SHOWN_MODULES} more" if len(modules) > SHOWN_MODULES else ""
    return (
        f"{text}; parts of {shown}{more} are computed twice, about {memory.extra_work * 100:.2g} % more work"
    )


def memory_facts(memory: TrainingMemory) -> dict[str, object]:
    """The same for a program to read."""
    return {
        "size_bytes": memory.arena.size_bytes,
        "bound_bytes": memory.arena.bound_bytes,
        "limit_bytes": memory.limit_bytes,
        "computed_twice": list(memory.recomputed),
        "extra_work": memory.extra_work,
    }


def make_memory_observer(taken: dict[str, TrainingMemory], remarks: Console | None) -> Observer:
    """An observer of training that fills `taken` by phase and, where there are `remarks`, says it there."""
    from emberfleet.train.loop import Observer

    class MemoryObserver(Observer):
        phase = ""

        def on_phase(self, name: str, epochs_done: int, epochs: int, steps_per_epoch: int) -> None:
            self.phase = name

        def on_memory(self, memory: TrainingMemory) -> None:
            taken[self.phase] = memory
            if remarks is not None:
                remarks.print(memory_words(memory), soft_wrap=True)

    return MemoryObserver()
