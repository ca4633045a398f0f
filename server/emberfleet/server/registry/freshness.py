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
ROOT_WARNING_S: Final = 180 * 24 * 3600


async def keep_fresh(registry: ModelRegistry, timestamp_s: float, clock: Callable[[], float]) -> None:
    """Sign anew what is due, until cancelled; what fails is tried again at the next look.

    Args:
        registry: Whose list it is.
        timestamp_s: How long a timestamp is good for.
        clock: Seconds since 1970.
    """
    _warn_of_root(registry, clock())
    pause_s = min(LONGEST_PAUSE_S, timestamp_s / CHECKS_PER_LIFETIME)
    while True:
        try:
            await asyncio.to_thread(registry.bring_in_line, clock())
        except EmberError as error:
            log.error("the list of models could not be signed anew: %s", error)
        await asyncio.sleep(pause_s)


def _warn_of_root(registry: ModelRegistry, now: float) -> None:
    """Say so in time: once the root has run out, devices refuse every list."""
    root = registry.repository.root().signed
    if root.expires.timestamp() - now < ROOT_WARNING_S:
        log.warning(
            "the TUF root is good until %s: run emberfleet server renew-root before then", root.expires.date()
        )
