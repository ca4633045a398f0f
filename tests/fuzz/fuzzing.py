"""Parsers under broken inputs: in a process of its own that may take little memory, and little time for each.

A finding is an input after which a parser raised something else than it may, took too long, or gave a value
that it does not read back from its own encoding.
"""

from __future__ import annotations

import base64
import multiprocessing
import random
import resource
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from emberfleet.core.errors import FormatError
from tests.fuzz.mutations import Mutator, Seed

INPUTS: Final = 100_000
"""Of each family; a slow one says how many."""
ROOM_BYTES: Final = 192 << 20
"""Of address space beyond what the process had with its seeds made."""
GROWTH_KIB: Final = 64 << 10
"""Of memory really held beyond that."""
SLOWEST_S: Final = 2.0
"""Of the processor's time for one input: none is larger than `mutations` makes it."""
MOST_FINDINGS: Final = 20
CORPUS: Final = Path(__file__).with_name("corpus")
_forks = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Target:
    """One reader of bytes from outside.

    Attributes:
        name: Of the reader; its corpus lies in a folder of this name.
        seeds: Valid inputs.
        read: What is under test.
        raises: All that it may raise.
        again: Encodes what was read and reads that: the same value.
        wrap: Makes the input out of the bytes that are broken: what stands in a frame, or is signed.
    """

    name: str
    seeds: Sequence[bytes]
    read: Callable[[bytes], Any]
    raises: tuple[type[Exception], ...] = (FormatError,)
    again: Callable[[Any], Any] | None = None
    wrap: Callable[[bytes], bytes] = field(default=bytes)

    def try_one(self, data: bytes) -> bool:
        """Whether it is read; raises what it may not raise, and `AssertionError` for another value."""
        try:
            found = self.read(self.wrap(data))
        except self.raises:
            return False
        if self.again is not None:
            assert self.again(found) == found, "what was read is not what its encoding says"
        return True


@dataclass(frozen=True)
class Family:
    """Readers that share a number of inputs."""

    name: str
    targets: Callable[[], list[Target]]
    inputs: int = INPUTS


@dataclass(frozen=True)
class Finding:
    """An input that a reader did not bear."""

    target: str
    data: bytes
    what: str

    def __str__(self) -> str:
        packed = base64.b85encode(zlib.compress(self.data, 9)).decode("ascii")
        return f"{self.target}: {self.what}\n  zlib.decompress(base64.b85decode({packed!r}))"


@dataclass
class Outcome:
    """What became of a family's inputs."""

    tried: int = 0
    took_s: float = 0.0
    accepted: int = 0
    findings: list[Finding] = field(default_factory=list)
    grown_kib: int = 0
    slowest_s: float = 0.0


def fuzz(family: Family, inputs: int, chance_of: str = "0") -> Outcome:
    """Break a family's seeds so many times, in this process."""
    targets = family.targets()
    found = Outcome()
    seen: set[str | None] = set()
    for index, target in enumerate(targets):
        share = inputs * (index + 1) // len(targets) - inputs * index // len(targets)
        mutator = Mutator(
            [Seed.of(data) for data in target.seeds], random.Random(f"{chance_of}/{target.name}")
        )
        for data in mutator.inputs(share):
            begin = time.process_time()
            what = _complaint(target, data, found)
            took = time.process_time() - begin
            found.slowest_s = max(found.slowest_s, took)
            found.took_s += took
            if what is None and took > SLOWEST_S:
                what = f"took {took:.1f} s"
            where = None if what is None else f"{target.name} {what.partition(': ')[0]}"
            if what is not None and where not in seen and len(found.findings) < MOST_FINDINGS:
                seen.add(where)
                found.findings.append(Finding(target.name, data, what))
        found.tried += share
    return found


def _complaint(target: Target, data: bytes, found: Outcome) -> str | None:
    try:
        found.accepted += target.try_one(data)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:200]}"
    return None


def fuzz_apart(families: Sequence[Family], name: str, inputs: int, chance_of: str = "0") -> Outcome:
    """The same in a process that cannot take `ROOM_BYTES` more than it begins with."""
    receiver, sender = _forks.Pipe(duplex=False)
    process = _forks.Process(target=_confined, args=(sender, families, name, inputs, chance_of))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        raise AssertionError(f"the process of {name} died: {process.exitcode}") from None
    finally:
        process.join(60)
    assert isinstance(outcome, Outcome)
    return outcome


def _confined(sender: Any, families: Iterable[Family], name: str, inputs: int, chance_of: str) -> None:
    family = next(family for family in families if family.name == name)
    warm = [target.try_one(data) for target in family.targets() for data in target.seeds]
    assert all(warm), f"{name}: a seed is not valid"
    warnings.simplefilter("error")
    limit = _address_space() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = fuzz(family, inputs, chance_of)
    outcome.grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sender.send(outcome)
    # A child process ends without the clean-up that an interpreter does.
    for folder in _SCRATCH:
        folder.cleanup()


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    return pages * resource.getpagesize()


_SCRATCH: Final[list[tempfile.TemporaryDirectory[str]]] = []


def scratch() -> Path:
    """A folder that goes with the process."""
    _SCRATCH.append(tempfile.TemporaryDirectory(prefix="emberfleet-fuzz-"))
    return Path(_SCRATCH[-1].name)


def corpus_of(target: str) -> list[bytes]:
    """Inputs that a reader did not bear once."""
    return [path.read_bytes() for path in sorted((CORPUS / target.replace(" ", "_")).glob("*.bin"))]
