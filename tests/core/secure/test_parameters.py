"""Degrees and thresholds: another's table, integers instead of logarithms, and what the choice promises."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import ConfigError
from emberfleet.core.secure.parameters import (
    ETA,
    MAX_COHORT,
    SIGMA,
    SMALL_COHORT,
    GraphParameters,
    choose_parameters,
    least_drawn,
    most_drawn,
)
from tests.core.secure import twins

TABLE = json.loads((Path(__file__).parents[2] / "golden" / "graph_parameters.json").read_text("utf-8"))
FEDERATED_COMPUTE = [
    (100, 0.05, 0.33, 28, 6),
    (1000, 0.05, 0.33, 72, 24),
    (10000, 0.05, 0.33, 86, 29),
    (1000, 0.33, 0.05, 78, 60),
    (1000, 0.05, 0.05, 30, 17),
    (10000, 0.05, 0.05, 34, 20),
]
"""Cohort, corrupt, drop-out, degree, threshold: the test table of Google's federated-compute."""


def test_the_whole_golden_table_is_ours_too() -> None:
    for cohort, corrupt, dropout, *expected in TABLE:
        found = choose_parameters(cohort, corrupt, dropout)
        assert [found.degree, found.threshold, found.highest_threshold] == expected, (
            cohort,
            corrupt,
            dropout,
        )
    assert len(TABLE) == 120


@pytest.mark.parametrize(("cohort", "corrupt", "dropout", "degree", "threshold"), FEDERATED_COMPUTE)
def test_federated_computes_table_is_ours_too(
    cohort: int, corrupt: float, dropout: float, degree: int, threshold: int
) -> None:
    found = choose_parameters(cohort, corrupt, dropout)
    assert (found.degree, found.threshold) == (degree, threshold)


@st.composite
def draws(draw: st.DrawFn) -> tuple[int, int, int]:
    population = draw(st.integers(1, 200))
    return population, draw(st.integers(0, population)), draw(st.integers(1, population))


@given(draws(), st.integers(1, 60))
def test_tails_are_those_of_exact_integers(numbers: tuple[int, int, int], bits: int) -> None:
    # 211 divides no binomial coefficient of up to 200, so no tail is exactly as likely as the bound.
    bound = Fraction(70, 211 * 2**bits)
    log_bound = math.log(70 / 211) - bits * math.log(2)
    assert most_drawn(*numbers, log_bound) == twins.most_drawn(*numbers, bound)
    assert least_drawn(*numbers, log_bound) == twins.least_drawn(*numbers, bound)


@pytest.mark.parametrize("split_proof", [False, True])
@pytest.mark.parametrize(
    ("cohort", "corrupt", "dropout"), [(50, 0.1, 0.3), (200, 0.05, 0.2), (1000, 0.05, 0.1)]
)
def test_what_was_chosen_keeps_its_promises_exactly(
    cohort: int, corrupt: float, dropout: float, split_proof: bool
) -> None:
    found = choose_parameters(cohort, corrupt, dropout, split_proof)
    bad, staying = math.floor(corrupt * cohort), cohort - math.floor(dropout * cohort)
    too_many = sum(
        twins.hypergeometric(cohort, bad, found.degree, x)
        for x in range(found.corrupt + 1, min(bad, found.degree) + 1)
    )
    too_few = sum(
        twins.hypergeometric(cohort, staying, found.degree, x) for x in range(found.highest_threshold)
    )
    assert too_many * cohort <= Fraction(1, 2 ** (SIGMA + 1))
    assert too_few * cohort < Fraction(1, 2**ETA)
    assert found.corrupt < found.threshold <= found.highest_threshold < found.degree
    assert found.split_proof or not split_proof


@given(
    st.integers(3, 400),
    st.sampled_from([0.0, 0.05, 0.1, 0.2]),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.booleans(),
)
def test_every_choice_is_a_graph_with_a_threshold_above_the_corrupt(
    cohort: int, corrupt: float, dropout: float, split_proof: bool
) -> None:
    found = choose_parameters(cohort, corrupt, dropout, split_proof)
    assert found.complete or found.degree % 2 == 0
    assert max(2, found.corrupt + 1) <= found.threshold <= found.highest_threshold <= found.degree
    assert found.complete or cohort > SMALL_COHORT
    assert found.split_proof or not split_proof


def test_a_small_cohort_gets_the_complete_graph_and_a_majority_where_it_can() -> None:
    assert choose_parameters(10, 0.2, 0.3) == GraphParameters(10, 9, 2, 6, 6)
    assert choose_parameters(10, 0.05, 0.1) == GraphParameters(10, 9, 0, 5, 8)
    assert choose_parameters(3, 0.0, 0.0) == GraphParameters(3, 2, 0, 2, 2)


def test_one_share_alone_is_never_a_secret() -> None:
    found = choose_parameters(33, 0.0, 0.05)
    assert 2 <= found.threshold <= found.highest_threshold
    with pytest.raises(ConfigError, match="2 are needed"):
        choose_parameters(3, 0.0, 0.34)


def test_two_views_of_the_survivors_are_worth_less_than_two_thresholds_when_asked_for() -> None:
    assert not choose_parameters(1000, 0.05, 0.1).split_proof
    found = choose_parameters(1000, 0.05, 0.1, split_proof=True)
    assert 2 * found.threshold > found.degree + found.corrupt
    assert found.degree > choose_parameters(1000, 0.05, 0.1).degree


def test_shares_that_are_a_hair_below_a_whole_number_of_devices_count_as_it() -> None:
    assert 0.29 * 100 < 29
    assert choose_parameters(100, 0.0, 0.29) == choose_parameters(100, 0.0, 0.29 + 1e-12)
    assert choose_parameters(30, 0.0, 0.7 / 3 + 1e-3).highest_threshold == 29 - 7


@pytest.mark.parametrize(
    ("cohort", "corrupt", "dropout", "text"),
    [
        (2, 0.0, 0.0, "a cohort of 2"),
        (MAX_COHORT + 1, 0.0, 0.0, "a cohort of 65537"),
        (10, 1.0, 0.0, "corrupt share of 1.0"),
        (10, 0.0, -0.1, "drop-out share of -0.1"),
        (10, float("nan"), 0.0, "corrupt share of nan"),
        (10, 0.5, 0.5, "larger cohort"),
        (100, 0.6, 0.5, "larger cohort"),
    ],
)
def test_what_no_graph_can_do_is_said(cohort: int, corrupt: float, dropout: float, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        choose_parameters(cohort, corrupt, dropout)


def test_two_views_cannot_be_guarded_against_when_too_many_vanish() -> None:
    assert not choose_parameters(10, 0.33, 0.3).split_proof
    with pytest.raises(ConfigError, match="outvote"):
        choose_parameters(10, 0.33, 0.3, split_proof=True)
