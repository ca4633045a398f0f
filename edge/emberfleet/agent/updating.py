"""Keeps a device's model up to date: finds the release, fetches it, judges it, tells how it did."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from emberfleet.agent.client import ServerClient, UnreachableError
from emberfleet.agent.judging import Evaluate, judge
from emberfleet.agent.models import ModelStore
from emberfleet.agent.releases import ReleaseList
from emberfleet.agent.samples import Samples, SampleStore
from emberfleet.core.errors import DataError
from emberfleet.core.messages import ModelReport, Reason, RefusedError

log = logging.getLogger(__name__)


class ModelUpdates:
    """The way of a model from the server to the one that answers."""

    def __init__(
        self,
        store: ModelStore,
        releases: ReleaseList,
        client: ServerClient,
        samples: SampleStore,
        evaluate: Evaluate | None = None,
        on_model: Callable[[Path], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            store: Where bundles are kept.
            releases: What the server has published.
            client: Fetches bundles and sends reports.
            samples: The device's, to judge by.
            evaluate: Runs a bundle on samples; None: every new model serves.
            on_model: Told of every bundle that serves from then on.
        """
        self._store, self._releases, self._client = store, releases, client
        self._samples, self._evaluate, self._on_model = samples, evaluate, on_model

    def bring(self, hint: int = 0) -> bool:
        """Fetch the newest release that reaches this device; False where it is here already.

        Args:
            hint: The version that the server speaks of, unsigned. It makes the device look, no more:
                without it, the device looks whenever a fresh timestamp is due.

        Raises:
            FrozenError, RollbackError, SignatureError, FormatError: As `ReleaseList.refresh` and
                `ModelStore.install`: nothing was changed.
        """
        self.settle()
        if hint <= self._store.version() and not self._releases.is_due():
            return False
        release = self._releases.refresh()
        if release is None or release.version <= self._store.version():
            return False
        first = self._store.version() == 0
        path = self._store.install(release.info, self._client.download(release.info, self._store.partial))
        log.info("model %d is here", release.version)
        if first and self._on_model is not None:
            self._on_model(path)
        self.settle()
        return True

    def settle(self) -> None:
        """Judge a model that was installed and not judged yet, and send what was not sent yet."""
        waiting = self._store.waiting()
        if waiting is not None:
            report = self._judge(*waiting)
            keep_new = report is None or report.kept
            self._store.judge(report, keep_new)
            if not keep_new:
                log.warning("the new model did worse here: the one before it serves on")
            elif self._on_model is not None:
                self._on_model(waiting[0])
        unsent = self._store.unsent_report()
        if unsent is not None:
            self._send(*unsent)

    def _judge(self, new: Path, old: Path) -> ModelReport | None:
        samples = self._load_samples()
        if self._evaluate is None or samples is None:
            return None
        return judge(self._evaluate, new, old, samples)

    def _load_samples(self) -> Samples | None:
        try:
            return self._samples.load()
        except DataError:
            return None

    def _send(self, version: int, report: ModelReport) -> None:
        try:
            self._client.report(version, report)
        except UnreachableError as error:
            log.info("the server does not know yet how model %d did: %s", version, error)
            return
        except RefusedError as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
        self._store.report_sent()
