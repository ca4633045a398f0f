from __future__ import annotations

from pathlib import Path

import pytest

from emberfleet.core.errors import DeviceError
from tests.runner.building import SANITIZED, build
from tests.runner.bundles import signed_bundle
from tests.runner.ember import Ember
from tests.runner.pocl import prepared_library


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner as gcc builds it."""
    return build(tmp_path_factory.mktemp("runner"), "gcc", "libember.so", "ember-run")


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ember-run with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return build(tmp_path_factory.mktemp("sanitized"), "gcc", "ember-run", extra=SANITIZED) / "ember-run"


@pytest.fixture(scope="session")
def ember(built: Path) -> Ember:
    """The library."""
    return Ember(built / "libember.so")


@pytest.fixture(scope="session")
def bundle() -> bytes:
    """A signed bundle with int8 and float32 plans."""
    return signed_bundle()


@pytest.fixture(scope="session")
def opencl_library() -> str:
    """The OpenCL library that pyopencl uses, its PoCL able to build for this processor."""
    try:
        return prepared_library()
    except DeviceError as error:
        pytest.skip(str(error))
