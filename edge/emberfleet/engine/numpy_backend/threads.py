"""How many threads BLAS may use, bounded while this backend computes."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

from threadpoolctl import ThreadpoolController

from emberfleet.core.errors import ConfigError

THREADS_VARIABLE = "EMBERFLEET_THREADS"


class Threads:
    """A bound on BLAS threads; without a number, from EMBERFLEET_THREADS; without that, none."""

    def __init__(self, count: int | None) -> None:
        if count is None:
            text = os.environ.get(THREADS_VARIABLE, "").strip()
            if text:
                try:
                    count = int(text)
                except ValueError as error:
                    raise ConfigError(f"{THREADS_VARIABLE} is '{text}', expected a number") from error
        if count is not None and count < 1:
            raise ConfigError(f"threads is {count}, expected 1 or more")
        self.count = count
        self._controller = None if count is None else ThreadpoolController()

    def bounded(self) -> AbstractContextManager[object]:
        """A context within which BLAS keeps to the bound."""
        if self._controller is None:
            return nullcontext()
        limit: AbstractContextManager[object] = self._controller.limit(limits=self.count, user_api="blas")
        return limit
