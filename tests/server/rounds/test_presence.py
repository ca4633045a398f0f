"""Who is there: counted by model, whatever comes and goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emberfleet.server.rounds.presence import Presence

VISITS = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 3), st.booleans()), max_size=40)


@given(VISITS)
def test_those_who_wait_are_counted_by_the_model_they_have(visits: list[tuple[str, int, bool]]) -> None:
    presence, there = Presence(), dict[str, int]()
    for device, version, goes in visits:
        if goes:
            presence.forget(device)
            there.pop(device, None)
        else:
            assert presence.note(device, version, 0.0) is (there.get(device) != version)
            there[device] = version
        for model in range(4):
            expected = {name for name, seen in there.items() if seen == model}
            assert presence.waiting(model) == len(expected)
    assert presence.present(1, 0.0, 10.0) == {name for name, seen in there.items() if seen == 1}
    assert presence.waiting(1) == list(there.values()).count(1)


def test_a_device_not_heard_of_for_long_is_no_longer_there() -> None:
    presence = Presence()
    presence.note("old", 1, 0.0)
    presence.note("new", 1, 50.0)
    assert presence.present(1, 55.0, 45.0) == {"new"}
    assert presence.waiting(1) == 1
