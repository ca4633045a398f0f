"""From shares and masked uploads to the sum: exact, and with the liar's name where one can be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.errors import RoundError
from emberfleet.server.rounds.disclosing import more_may_come, wait_for_more
from emberfleet.server.rounds.state import Phase
from emberfleet.server.rounds.steps import advance
from emberfleet.server.rounds.unmasking import UnfitSharesError, recover_secrets, sum_uploads
from tests.server.rounds.devices import UPDATE
from tests.server.rounds.secure_round import Play, with_plan

TWELVE = with_plan(cohort=12, minimum=6)
STEP = 0.5 / 32767


def give_changes(play: Play) -> None:
    """Changes of whole steps, which are not rounded."""
    generator = np.random.default_rng(0)
    for device in play.devices:
        steps = generator.integers(-3000, 3000, UPDATE.size)
        device.change = (steps * STEP).astype(np.float32)


def write(play: Play, folder: Path) -> None:
    for device_id, body in play.bodies.items():
        (folder / f"{device_id}.update").write_bytes(body)


def summed(play: Play, folder: Path, parts: int = 2) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    write(play, folder)
    secrets = recover_secrets(play.round)
    return sum_uploads(play.round, lambda name: folder / f"{name}.update", secrets, parts).mean * STEP


def exact(play: Play) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    alive = [device.change for device in play.devices if device.id in play.round.accepted]
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = np.mean(np.array(alive, np.float64), axis=0)
    return found


@pytest.mark.parametrize("vanished", [0, 1, 3])
def test_the_sum_of_those_who_survived_is_exact(vanished: int, tmp_path: Path) -> None:
    play = Play(TWELVE, 12)
    give_changes(play)
    play.until(Phase.COLLECT).until(Phase.APPLY, play.devices[vanished:])
    assert len(play.round.accepted) == 12 - vanished
    found = summed(play, tmp_path)
    np.testing.assert_allclose(found, exact(play), atol=STEP * 1e-3)
    assert np.array_equal(found, summed(play, tmp_path, parts=1))


def test_a_sparse_graph_sums_as_well(tmp_path: Path) -> None:
    plan = with_plan(cohort=60, minimum=30)
    play = Play(plan, 60)
    give_changes(play)
    play.until(Phase.SHARES).until(Phase.COLLECT, play.devices[:57]).until(Phase.APPLY, play.devices[5:57])
    graph = play.round.known_graph
    assert not graph.parameters.complete
    assert len(play.round.known_group.participants) == 57
    np.testing.assert_allclose(summed(play, tmp_path), exact(play), atol=STEP * 1e-3)


def test_a_wrong_share_is_found_and_its_sender_named(tmp_path: Path) -> None:
    play = Play(TWELVE, 12)
    give_changes(play)
    play.until(Phase.COLLECT).until(Phase.UNMASK, play.devices[2:])
    liar = play.devices[4]
    play.disclose(liar, wrong=range(12))
    for device in play.devices[2:]:
        if device is not liar and play.at(Phase.UNMASK):
            play.disclose(device)
    with pytest.raises(UnfitSharesError) as caught:
        recover_secrets(play.round)
    assert not caught.value.hopeless
    assert caught.value.culprits == (liar.id,)
    assert more_may_come(play.round, play.now)
    play.round = wait_for_more(play.round)
    assert advance(play.round, play.now).phase is Phase.UNMASK
    spoken = set(play.round.disclosures)
    for device in play.devices[2:]:
        if device.position not in spoken:
            play.disclose(device)
    assert play.at(Phase.APPLY)
    secrets = recover_secrets(play.round)
    assert secrets.culprits == (liar.id,)
    np.testing.assert_allclose(summed(play, tmp_path), exact(play), atol=STEP * 1e-3)


def test_two_liars_are_named_where_shares_are_to_spare() -> None:
    play = Play(with_plan(cohort=20, minimum=6), 20).until(Phase.UNMASK)
    liars = [play.devices[3], play.devices[9]]
    play.round = replace(play.round, patient=True)
    for device in play.devices:
        play.disclose(device, wrong=range(20) if device in liars else ())
    assert recover_secrets(play.round).culprits == tuple(sorted(device.id for device in liars))


def test_who_shared_another_secret_than_it_committed_to_is_named() -> None:
    play = Play(TWELVE, 12)
    cheat = play.devices[7]
    cheat.lies = True
    play.until(Phase.UNMASK)
    play.round = replace(play.round, patient=True)
    for device in play.devices:
        play.disclose(device)
    with pytest.raises(UnfitSharesError) as caught:
        recover_secrets(play.round)
    assert caught.value.culprits == (cheat.id,)
    assert caught.value.hopeless


def test_an_update_that_is_not_what_its_masks_say_is_no_model(tmp_path: Path) -> None:
    play = Play(TWELVE, 12).until(Phase.APPLY)
    name, body = next(iter(play.bodies.items()))
    play.bodies[name] = body[:-40] + bytes(40)
    with pytest.raises(RoundError, match="not what 12 devices can have sent"):
        summed(play, tmp_path)
