"""Keeps the repository's signatures fresh while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from emberfleet.core.errors import EmberError
from emberfleet.server.registry.models import ModelRegistry

log = logging.getLogger(__name__)
LONGEST_PAUSE_S: Final = 60.0
CHECKS_PER_LIFETIME: Final = 16


async def keep_fresh(registry: ModelRegistry, timestamp_s: float, clock: Callable[[], float]) -> None:
    """Sign anew what is due, until cancelled; what fails is tried again at the next look.

    Args:
        registry: Whose list it is.
        timestamp_s: How long a timestamp is good for.
        clock: Seconds since 1970.
    """
    pause_s = min(LONGEST_PAUSE_S, timestamp_s / CHECKS_PER_LIFETIME)
    while True:
        try:
            await asyncio.to_thread(registry.bring_in_line, clock())
        except EmberError as error:
            log.error("the list of models could not be signed anew: %s", error)
        await asyncio.sleep(pause_s)
