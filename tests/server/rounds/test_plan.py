"""A round's plan: checked when made, the same after JSON, and applied to a model by patterns."""

from __future__ import annotations

import numpy as np
import pytest

from emberfleet.core.codec import Fields, encode_json
from emberfleet.core.errors import ConfigError, FormatError
from emberfleet.core.offers import Mode
from emberfleet.server.rounds.plan import RoundPlan

MODEL = {"conv1/weight": np.full((2, 2), -3.0, np.float32), "head/weight": np.zeros(4, np.float32)}


def test_a_plan_survives_json() -> None:
    plan = RoundPlan(
        cohort=7, tensors=("head/*", "*/bias"), training={"epochs": 3, "scope": "head"}, lease_s=2
    )
    assert RoundPlan.from_fields(Fields.parse(encode_json(plan.to_json()), "plan")) == plan


def test_settings_left_out_keep_their_defaults() -> None:
    assert RoundPlan.from_fields(Fields.of({"cohort": 9}, "plan")) == RoundPlan(cohort=9)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(FormatError, match="cohrt"):
        RoundPlan.from_fields(Fields.of({"cohrt": 9}, "plan"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cohort", 0),
        ("minimum", 0),
        ("minimum", 21),
        ("over_selection", -0.1),
        ("deadline_s", -1.0),
        ("bits", 12),
        ("clip", 0.0),
        ("clip", float("nan")),
        ("rate_decay", 0.0),
        ("warmup_rounds", -1),
        ("server_momentum", 1.0),
        ("server_momentum", 0.5),
        ("server_optimizer", "fedfoo"),
        ("server_beta2", 1.0),
        ("server_tau", 0.0),
        ("rule", "average"),
        ("byzantine_share", 0.5),
        ("norm_clip", -1.0),
        ("norm_bound", -1.0),
        ("norm_bound", float("nan")),
        ("weight_bound", 0),
        ("weight_bound", 1_000_001),
        ("tensors", ()),
        ("keys_s", 0.0),
        ("unmask_s", 0.0),
        ("heaviest", 0),
        ("coordinates", 0.0),
        ("quarantine_rounds", -1),
        ("minimum", 2),
        ("bits", 32),
        ("norm_bound", 1.0),
        ("rule", "krum"),
    ],
)
def test_a_setting_that_cannot_be_honoured_names_itself(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        RoundPlan(**{name: value})  # type: ignore[arg-type]


def test_a_secure_round_needs_a_graph_for_its_fewest_devices() -> None:
    with pytest.raises(ConfigError, match="may be corrupt"):
        RoundPlan(minimum=3, corrupt_share=0.4, dropout_share=0.4)
    assert RoundPlan(minimum=3).mode is Mode.SECURE
    assert RoundPlan(mode=Mode.SEALED, minimum=1, bits=32, corrupt_share=0.4).minimum == 1


def test_patterns_choose_the_tensors_of_an_update() -> None:
    plan = RoundPlan(tensors=("head/*",)).update_plan(MODEL, {})
    assert [tensor.name for tensor in plan.tensors] == ["head/weight"]
    with pytest.raises(ConfigError, match="no tensor"):
        RoundPlan(tensors=("tail/*",)).update_plan(MODEL, {})


def test_a_scope_of_the_bundle_gives_the_tensors_and_their_order() -> None:
    scopes = {"all": ("head/weight", "conv1/weight")}
    plan = RoundPlan(scope="all", training={"rate": 1.0})
    assert [tensor.name for tensor in plan.update_plan(MODEL, scopes).tensors] == list(scopes["all"])
    assert plan.training_of(1) == {"scope": "all", "rate": 1.0}
    with pytest.raises(ConfigError, match="scope is 'all', and the bundle has head"):
        plan.update_plan(MODEL, {"head": ("head/weight",)})


def test_large_tensors_may_change_by_more() -> None:
    plan = RoundPlan(clip=0.5, relative_clip=2.0).update_plan(MODEL, {})
    assert [tensor.clip for tensor in plan.tensors] == [6.5, 0.5]


def test_the_rate_rises_in_equal_steps_before_it_falls() -> None:
    plan = RoundPlan(training={"rate": 0.8}, warmup_rounds=3)
    assert [plan.training_of(n)["rate"] for n in (1, 2, 3, 4, 5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])


def test_the_rate_decays_from_round_to_round() -> None:
    plan = RoundPlan(training={"rate": 0.8, "epochs": 2}, rate_decay=0.5)
    assert [plan.training_of(number)["rate"] for number in (1, 2, 3)] == [0.8, 0.4, 0.2]
    assert plan.training_of(3)["epochs"] == 2


def test_over_selection_rounds_up() -> None:
    assert RoundPlan(cohort=10, over_selection=0.25).asked == 13
    assert RoundPlan(cohort=10, pool=60).wanted_present == 60


def test_rule_and_optimizer_survive_json() -> None:
    plan = RoundPlan(
        mode=Mode.SEALED,
        minimum=9,
        rule="krum",
        byzantine_share=0.3,
        norm_bound=7.5,
        weight_bound=50,
        server_optimizer="fedyogi",
    )
    assert RoundPlan.from_fields(Fields.parse(encode_json(plan.to_json()), "plan")) == plan
    assert (plan.rule_settings.rule, plan.rule_settings.byzantine_share) == ("krum", 0.3)


def test_a_rule_that_the_minimum_is_too_small_for_is_refused_before_the_round() -> None:
    with pytest.raises(ConfigError, match="krum: 4 updates, expected at least 5"):
        RoundPlan(minimum=4, rule="krum", byzantine_share=0.25)


def test_a_secure_round_has_no_robust_rule_and_no_norm_bound() -> None:
    with pytest.raises(ConfigError, match="rule"):
        RoundPlan(mode=Mode.SECURE, minimum=5, rule="median")
    with pytest.raises(ConfigError, match="norm_bound"):
        RoundPlan(mode=Mode.SECURE, minimum=5, norm_bound=1.0)
