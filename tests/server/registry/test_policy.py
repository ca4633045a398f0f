from __future__ import annotations

import pytest

from emberfleet.core.codec import Fields
from emberfleet.core.errors import FormatError
from emberfleet.server.registry.policy import ReleasePolicy


def test_a_policy_comes_back_from_its_json() -> None:
    policy = ReleasePolicy(rollout_percent=5, halt_share=0.25, timestamp_s=60)
    assert ReleasePolicy.from_fields(Fields.of(policy.to_json(), "releases")) == policy


def test_a_setting_left_out_keeps_its_default() -> None:
    assert ReleasePolicy.from_fields(Fields.of({"halt_reports": 9}, "releases")) == ReleasePolicy(
        halt_reports=9
    )


@pytest.mark.parametrize("values", [{"surplus": 1}, {"rollout_percent": 1.5}, {"halt_share": "half"}])
def test_a_setting_of_another_name_or_type_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        ReleasePolicy.from_fields(Fields.of(values, "releases"))
