"""Times work in processes of its own, interleaved: what `emberfleet bench` and `make bench` measure with.

Two libraries that each bring a thread pool slow each other down in one process, and a machine that is
busy for a second spoils whatever runs in that second. So every piece of work lives in a process of its
own, prepared and warm, and takes its turn: one short sample of each, again and again. A sample is the
median of its calls; what is reported is the median of the samples, with the smallest and the largest.
Processor time, the mean of a sample's calls over all threads, says more than wall time while others work.

The child reads a number of seconds per line (0: one call) and answers each with one line of JSON; at
the end of its input it tells its facts. This module needs nothing but Python, so that a child may be
another interpreter.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from emberfleet.core.errors import DeviceError

WARM_UP_S: Final = 0.1
LONG_S: Final = 1.0
"""A first call that takes so long leaves nothing cold."""
LEAST_CALLS: Final = 3
PAUSE_S: Final = 0.02
"""Before each sample: the thread pools of some libraries spin a while after their work."""
THREAD_VARIABLES: Final = (
    "EMBERFLEET_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
)  # fmt: skip
_SHOWN_ERROR: Final = 2000


class SkippedError(Exception):
    """This machine cannot do the work; the text says why."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one call: median, smallest and largest of `samples` samples."""

    median: float
    low: float
    high: float
    samples: int

    @staticmethod
    def of(samples_ms: Sequence[float]) -> Timing:
        """Sum up samples, of which there is at least one."""
        return Timing(
            _rounded(statistics.median(samples_ms)),
            _rounded(min(samples_ms)),
            _rounded(max(samples_ms)),
            len(samples_ms),
        )

    def to_json(self) -> dict[str, float | int]:
        """As a JSON value."""
        return asdict(self)


class Work(Protocol):
    """What a child does over and over."""

    def call(self) -> None:
        """One unit: a step, a batch, a bundle opened."""

    def facts(self) -> dict[str, Any]:
        """Said at the end; raises when the work turns out not to have worked."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one piece of work: a timing, or why there is none."""

    timing: Timing | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        if self.timing is None:
            return {"skipped": self.skipped}
        return {"ms": self.timing.to_json(), **self.facts}


def sample_ms(call: Callable[[], object], seconds: float, least: int = LEAST_CALLS) -> float:
    """Median milliseconds of a call repeated for so long, and at least so often."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def peak_mib(pid: int | str = "self") -> float | None:
    """The most memory a process has held, in MiB; None where the system does not tell.

    Not `resource.getrusage`: a child inherits its parent's peak there.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return None
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:")]
    return round(int(found[0]) / 1024, 1) if found else None


def thread_environment(threads: int | None) -> dict[str, str]:
    """The environment of a child that keeps to so many threads; None: as this process."""
    return {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))


def serve(prepare: Callable[[], Work]) -> None:
    """The child's side: prepare, warm up, then answer every line of the input.

    What libraries print goes to stderr, so that the answers stay readable.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(value: Mapping[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    begin = time.perf_counter()
    try:
        work = prepare()
        prepared = time.perf_counter()
        work.call()
    except SkippedError as reason:
        say({"skipped": str(reason)})
        return
    first = time.perf_counter()
    if first - prepared < LONG_S:
        sample_ms(work.call, WARM_UP_S, least=2)
    calls = 0

    def counted() -> None:
        nonlocal calls
        work.call()
        calls += 1

    say({"prepare_s": _rounded(prepared - begin), "first_call_s": _rounded(first - prepared)})
    for line in sys.stdin:
        seconds = float(line)
        calls_before, begin_cpu = calls, time.process_time()
        wall_ms = sample_ms(counted, seconds, LEAST_CALLS if seconds else 1)
        say({"ms": wall_ms, "cpu_ms": 1e3 * (time.process_time() - begin_cpu) / (calls - calls_before)})
    say({"peak_mib": peak_mib(), **work.facts()})


class MeasuredProcess:
    """The parent's side of one child."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        threads: int | None = None,
        paths: Sequence[Path] = (),
        may_fail: bool = False,
    ) -> None:
        """Start the child; it prepares itself while the parent goes on.

        Args:
            name: What errors call it.
            command: Ends up in `serve`.
            threads: Most threads; None: no bound beyond this process's own.
            paths: Where the child finds modules, before its own.
            may_fail: Whether its end before its time is a reason to skip it, and no error.
        """
        self.name = name
        self._may_fail = may_fail
        environment = {**os.environ, **thread_environment(threads)}
        if paths:
            before = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
            environment["PYTHONPATH"] = os.pathsep.join([*(str(path) for path in paths), *before])
        # A pipe that nobody empties would stop a child that says much.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=environment,
        )
        self._facts: dict[str, Any] = {}
        self.skipped = ""
        self.samples: list[float] = []
        self._cpu_samples: list[float] = []

    def wait_ready(self) -> bool:
        """Wait until it is warm; False where it cannot do its work here.

        Raises:
            DeviceError: It ended instead; carries what it said.
        """
        answer = self._read()
        self.skipped = str(answer.get("skipped", ""))
        self._facts = answer
        return not self.skipped

    def sample(self, seconds: float) -> None:
        """Take one sample, unless it has ended; raises `DeviceError` as `wait_ready` does."""
        assert self._process.stdin is not None
        if self.skipped:
            return
        try:
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: reading says how
        answer = self._read()
        self.skipped = str(answer.get("skipped", ""))
        if not self.skipped:
            self.samples.append(float(answer["ms"]))
            self._cpu_samples.append(float(answer["cpu_ms"]))

    def finish(self) -> Result:
        """End the child in order and take what it has to tell."""
        if self.skipped:
            return Result(None, skipped=self.skipped)
        assert self._process.stdin is not None
        self._process.stdin.close()
        cpu_ms = _rounded(statistics.median(self._cpu_samples))
        last = self._read()
        self._process.wait()
        if "skipped" in last:
            return Result(None, skipped=last["skipped"])
        return Result(Timing.of(self.samples), {"cpu_ms": cpu_ms, **self._facts, **last})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace").strip()
        text = f"{self.name}: the process ended with code {code}: {said[-_SHOWN_ERROR:]}"
        if self._may_fail:
            return {"skipped": text}
        raise DeviceError(text)


def interleave(processes: Sequence[MeasuredProcess], samples: int, seconds: float) -> list[Result]:
    """Let warm children take turns: `samples` rounds of one sample of `seconds` each."""
    able = [process for process in processes if process.wait_ready()]
    for _ in range(samples):
        for process in able:
            time.sleep(PAUSE_S)
            process.sample(seconds)
    return [process.finish() for process in processes]


def check_falling(name: str, first: float, last: float) -> None:
    """A training that is timed has to train: on one batch seen again and again, the loss falls.

    Raises:
        DeviceError: It did not, or is not a number.
    """
    if not (math.isfinite(first) and math.isfinite(last) and last < first):
        raise DeviceError(f"{name}: the loss went from {first} to {last}, expected it to fall")


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")
