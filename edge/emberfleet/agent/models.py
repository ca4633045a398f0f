"""The models a device has: verified before they are kept, never older, judged before they serve.

::

    model.json             {"version": 7, "serving": 6, "judged": 7}
    model-000007.ember     the newest: rounds train on it
    model-000006.ember     the one that answers, where the newest did worse here
    report.json            what the server has not been told yet

`version` only grows. A new model serves once it is judged; killed in between, the device judges it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from emberfleet.agent.releases import RollbackError
from emberfleet.core.codec import Fields, encode_json
from emberfleet.core.errors import FormatError
from emberfleet.core.files import read_limited, write_atomically
from emberfleet.core.messages import MAX_SMALL_BYTES, ModelInfo, ModelReport

STATE_FILE: Final = "model.json"
REPORT_FILE: Final = "report.json"

CheckBundle = Callable[[bytes], int]
"""Verifies a bundle with the keys the device trusts and gives its version; raises what is wrong."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """Which versions a device has; 0 before the first.

    Attributes:
        version: The newest installed.
        serving: The one that answers.
        judged: The newest that was compared with the one before it.
    """

    version: int = 0
    serving: int = 0
    judged: int = 0


class ModelStore:
    """The bundles in a device's folder: the newest, and the one that serves."""

    def __init__(self, folder: Path, check: CheckBundle) -> None:
        self._folder = folder
        self._check = check

    @property
    def partial(self) -> Path:
        """Where a download in progress is kept."""
        return self._folder / "incoming.part"

    def state(self) -> ModelState:
        """What is installed, serves and was judged."""
        if not (self._folder / STATE_FILE).exists():
            return ModelState()
        fields = Fields.parse(read_limited(self._folder / STATE_FILE, MAX_SMALL_BYTES), STATE_FILE)
        version = fields.integer("version", 1)
        found = ModelState(
            version,
            fields.integer("serving", 1, version, default=version),
            fields.integer("judged", 0, version, default=version),
        )
        fields.done()
        return found

    def version(self) -> int:
        """The newest version at hand; 0 before the first."""
        return self.state().version

    def path(self) -> Path | None:
        """The newest bundle at hand: the one to train."""
        version = self.version()
        return self._path(version) if version else None

    def serving_path(self) -> Path | None:
        """The bundle to answer with."""
        serving = self.state().serving
        return self._path(serving) if serving else None

    def waiting(self) -> tuple[Path, Path] | None:
        """The newest bundle and the one that serves, while the newest is not judged."""
        state = self.state()
        if state.judged == state.version:
            return None
        return self._path(state.version), self._path(state.serving)

    def refuse_older(self, info: ModelInfo) -> None:
        """Raise `RollbackError` where the server offers less than the device has."""
        if info.version < self.version():
            raise RollbackError(
                f"the server offers model {info.version}, and this device has {self.version()} already: "
                "an older model is never taken"
            )

    def install(self, info: ModelInfo, data: bytes) -> Path:
        """Verify a bundle and make it the newest at hand; the first one serves at once.

        Raises:
            SignatureError: No trusted key has signed it, or it is older than the one at hand.
            FormatError: It is damaged, or says another version than announced.
        """
        self.refuse_older(info)
        version = self._check(data)
        if version != info.version:
            raise FormatError(f"the bundle says version {version}, expected {info.version}")
        before = self.state()
        path = self._path(version)
        write_atomically(path, data)
        if before.serving in (0, version):
            self._keep(ModelState(version, version, version))
        else:
            self._keep(replace(before, version=version))
        return path

    def judge(self, report: ModelReport | None, keep_new: bool) -> None:
        """Write down how the newest model did here, and let it serve or not.

        Args:
            report: For the server; None where nothing was measured.
            keep_new: Whether the newest serves from here on.
        """
        state = self.state()
        if report is not None:
            value = {"version": state.version, **report.to_json()}
            write_atomically(self._folder / REPORT_FILE, encode_json(value) + b"\n")
        serving = state.version if keep_new else state.serving
        self._keep(ModelState(state.version, serving, state.version))

    def unsent_report(self) -> tuple[int, ModelReport] | None:
        """The version that the server has not been told of, and what to tell."""
        path = self._folder / REPORT_FILE
        if not path.exists():
            return None
        fields = Fields.parse(read_limited(path, MAX_SMALL_BYTES), REPORT_FILE)
        return fields.integer("version", 1), ModelReport.from_fields(fields)

    def report_sent(self) -> None:
        """The server knows."""
        (self._folder / REPORT_FILE).unlink(missing_ok=True)

    def _keep(self, state: ModelState) -> None:
        """Write the state, then remove the bundles that it does not name."""
        values = {"version": state.version, "serving": state.serving, "judged": state.judged}
        write_atomically(self._folder / STATE_FILE, encode_json(values) + b"\n")
        named = {self._path(state.version), self._path(state.serving)}
        for path in self._folder.glob("model-*.ember"):
            if path not in named:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _path(self, version: int) -> Path:
        return self._folder / f"model-{version:06d}.ember"
