"""Each reader of bytes from outside bears any bytes: its own errors, little memory, little time."""

from __future__ import annotations

from collections import Counter

import pytest

from emberfleet.core.codec import Fields
from emberfleet.core.errors import FormatError
from tests.fuzz.fuzzing import CORPUS, GROWTH_KIB, Family, Target, corpus_of, fuzz, fuzz_apart
from tests.fuzz.mutations import ODD_VALUES, Mutator, Seed
from tests.fuzz.reaching import reached, readers
from tests.fuzz.registry import FAMILIES

CHECKED_BEFORE = "what it is given was read and checked by a reader that is fuzzed"
OWN_FILE = "reads a file that this server alone writes, in its own folder"
EXCLUDED = {
    "agent.client.ServerClient.read_message": "fetches a message; who asks for it decodes it",
    "converters.wire.wire.encode_wire": "takes a bundle that `Bundle.open` has verified just before",
    "core.repository_keys.RepositorySigner.from_priv_key_uri": "refuses whatever it is given",
    "core.secure.agreement.RoundContext.info": CHECKED_BEFORE,
    "core.secure.agreement._check_id": CHECKED_BEFORE,
    "core.secure.group.Group.context": CHECKED_BEFORE,
    "core.secure.masking.add_masked": "checks as `check_masked` does, which is fuzzed",
    "core.sources.open_source": "opens a file and looks at its size; what is in it is read elsewhere",
    "server.aggregate.stored.UpdateFile.updates": OWN_FILE,
    "server.api.admission.Admission._verify": "hands the headers of a request to `verify_head`",
    "server.api.admission.Admission.check_welcome": CHECKED_BEFORE,
    "server.api.bodies.read_body": "bytes as they come over HTTP: tests/server/api/test_bodies.py",
    "server.registry.models.ModelRegistry.check": "calls the opener of bundles, which is fuzzed",
    "server.registry.opening.open_bundle_with": "takes keys, and gives the opener that is fuzzed",
    "server.registry.repository.Repository._read": OWN_FILE,
    "server.releasing.open_registry": "opens the server's folder",
    "server.rounds.coordinator.Coordinator.check_free": CHECKED_BEFORE,
    "server.rounds.unmasking._check_key.check": "gets a secret put together from shares that were checked",
    "server.rounds.unmasking._check_own": "compares digests",
    "server.storage.files.ServerFolder.read_round_key": OWN_FILE,
}
"""Readers that no target reaches, each with why; named below `emberfleet`."""


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_no_input_breaks_a_reader(family: str) -> None:
    outcome = fuzz_apart(FAMILIES, family, next(each.inputs for each in FAMILIES if each.name == family))
    assert not outcome.findings, "\n".join(map(str, outcome.findings))
    assert outcome.grown_kib < GROWTH_KIB
    assert 0 < outcome.accepted <= outcome.tried


def test_every_reader_of_bytes_from_outside_is_fuzzed() -> None:
    seen = reached(FAMILIES)
    missing = {name.removeprefix("emberfleet.") for place, name in readers().items() if place not in seen}
    assert missing == set(EXCLUDED), "add a target that reads it, or say in EXCLUDED why there is none"


def test_inputs_that_broke_a_reader_once_do_not_again() -> None:
    targets = {target.name.replace(" ", "_"): target for family in FAMILIES for target in family.targets()}
    kept = sorted(path.name for path in CORPUS.iterdir())
    assert kept
    for name in kept:
        for data in corpus_of(name):
            assert not targets[name].try_one(data)


def test_no_two_targets_have_one_name() -> None:
    names = Counter(target.name for family in FAMILIES for target in family.targets())
    assert [name for name, count in names.items() if count > 1] == []


def careless(data: bytes) -> object:
    """A reader with every fault that the fuzzer is to find."""
    value = Fields.parse(data, "careless").rest()
    size = value["size"]
    if isinstance(size, list):
        raise FormatError("careless: not a number")
    return bytearray(size) if size else value["other"]


def hungry(data: bytes) -> object:
    """A reader that sets aside as much as it is told to."""
    return bytearray(int.from_bytes(data[:4], "big"))


def forgetful(data: bytes) -> bytes:
    """A reader that loses what it does not know."""
    return data.partition(b"\0")[0]


def sown_careless() -> list[Target]:
    return [Target("careless", [b'{"size":5,"other":1}'], careless)]


def sown_hungry() -> list[Target]:
    return [Target("hungry", [b"\0\0\0\1"], hungry)]


def sown_forgetful() -> list[Target]:
    return [Target("forgetful", [b"abc"], bytes, again=forgetful)]


SOWN = (
    Family("careless", sown_careless),
    Family("hungry", sown_hungry),
    Family("forgetful", sown_forgetful),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("careless", {"KeyError", "TypeError", "ValueError", "OverflowError"}),
        ("hungry", {"MemoryError"}),
        ("forgetful", {"AssertionError"}),
    ],
)
def test_faults_that_were_sown_are_found(name: str, expected: set[str]) -> None:
    outcome = fuzz_apart(SOWN, name, 3000)
    assert expected <= {finding.what.partition(" ")[0] for finding in outcome.findings}


def test_the_same_chance_gives_the_same_inputs() -> None:
    seeds = [Seed.of(b'{"a":[1,2,{"b":"c"}],"d":null}')]

    def inputs(chance: str) -> list[bytes]:
        seen: list[bytes] = []
        family = Family("f", lambda: [Target("t", [seeds[0].data], seen.append)])
        fuzz(family, 200, chance)
        return seen

    assert inputs("1") == inputs("1")
    assert inputs("1") != inputs("2")
    assert len(set(inputs("1"))) > 150


def test_the_structure_of_json_is_found() -> None:
    data = b'{"a":[1,{"b":"c,]"}],"d":null}'
    seed = Seed.of(data)
    assert {data[a:b] for a, b in seed.values} == {
        b"1",
        b'"c,]"',
        b'{"b":"c,]"}',
        b'[1,{"b":"c,]"}]',
        b"null",
        data,
    }
    assert {data[a:b] for a, b in seed.entries} == {
        b'"a":[1,{"b":"c,]"}]', b'"d":null', b"1", b'{"b":"c,]"}', b'"b":"c,]"'
    }  # fmt: skip


def test_every_odd_value_is_tried_in_place_of_a_field() -> None:
    import random

    mutator = Mutator([Seed.of(b'{"a":5}')], random.Random(0))
    seen = set(mutator.inputs(20_000))
    assert all(b'{"a":' + value + b"}" in seen for value in ODD_VALUES)
    assert {b'{"a":5,"a":5}', b"{}", b'{"a":6}', b'{"a":[5]}'} <= seen
