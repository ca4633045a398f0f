"""What a release says, whom it reaches, and which releases a device may still need."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError
from emberfleet.core.releases import EVERYBODY, MAX_RELEASES, Release, newest_for, shortened

DIGEST = "a" * 64
PERCENTS = st.integers(0, EVERYBODY)
RELEASES = st.lists(
    st.tuples(st.integers(1, 10**6), PERCENTS), max_size=200, unique_by=lambda pair: pair[0]
).map(lambda pairs: [Release(version, DIGEST, 1, percent) for version, percent in pairs])
DEVICES = st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}")


def read(release: Release, **changes: Any) -> Release:
    return Release.from_target(
        release.path, release.size_bytes, {"sha256": release.digest}, {**release.custom(), **changes}
    )


@given(st.integers(1, 10**9), PERCENTS, st.integers(0, 10**9), st.integers(1, 1 << 20))
def test_a_release_comes_back_from_its_target(version: int, percent: int, number: int, size: int) -> None:
    release = Release(version, DIGEST, size, percent, number)
    assert read(release) == release


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"version": True},
        {"version": 3},
        {"rollout_percent": 101},
        {"rollout_percent": 50.0},
        {"from_round": -1},
        {"surplus": 1},
        {"version": None},
    ],
)
def test_a_target_that_is_no_release_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        read(Release(2, DIGEST, 10), **changes)


@pytest.mark.parametrize("custom", [None, [], "x", 3, {}])
def test_a_target_without_what_a_release_says_is_refused(custom: object) -> None:
    with pytest.raises(FormatError):
        Release.from_target("models/000002.ember", 10, {"sha256": DIGEST}, custom)


@given(DEVICES, st.integers(1, 10**6))
def test_everybody_is_everybody_nobody_is_nobody_and_shares_only_grow(device: str, version: int) -> None:
    reached = [Release(version, DIGEST, 1, percent).reaches(device) for percent in range(EVERYBODY + 1)]
    assert reached == sorted(reached)
    assert not reached[0]
    assert reached[EVERYBODY]


def test_who_is_reached_first_is_what_the_protocol_says() -> None:
    device = "0123456789abcdef" * 2
    first = next(
        percent for percent in range(EVERYBODY + 1) if Release(12, DIGEST, 1, percent).reaches(device)
    )
    assert first == 91, "sha256sum gives e77e0834..., which is 90.43 of 100"


@given(RELEASES, DEVICES)
def test_shortening_changes_what_no_device_takes_unless_very_many_are_half_way(
    releases: list[Release], device: str
) -> None:
    kept = shortened(releases)
    assert len(kept) <= MAX_RELEASES
    assert list(kept) == sorted(kept, key=lambda release: release.version)
    wanted = newest_for(releases, device)
    if len(kept) < MAX_RELEASES - 1 or (wanted is not None and wanted.version >= kept[1].version):
        assert newest_for(kept, device) == wanted
