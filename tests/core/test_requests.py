"""Request signatures: what is signed is accepted once, and nothing else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core import requests
from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.requests import CLOCK_WINDOW_S, SignedHead, check_body, sign_request, verify_head
from emberfleet.core.signing import SigningKey

KEY = SigningKey.generate()
DEVICE, TARGET, NOW = "d" * 32, "/v1/work?model=1&wait=20", 1_700_000_000.0
SIGNED = {
    name.lower(): value for name, value in sign_request(KEY, DEVICE, "POST", TARGET, b"body", NOW).items()
}


def verify(
    headers: dict[str, str] | None = None,
    method: str = "POST",
    target: str = TARGET,
    now: float = NOW,
    key: SigningKey | None = KEY,
) -> SignedHead:
    found = None if key is None else key.verify_key
    return verify_head(method, target, SIGNED if headers is None else headers, now, lambda _: found)


def reason_of(**changes: object) -> Reason:
    with pytest.raises(RefusedError) as caught:
        verify(**changes)  # type: ignore[arg-type]
    return caught.value.reason


def test_a_signed_request_is_accepted_and_names_its_device() -> None:
    head = verify()
    assert head.device_id == DEVICE
    assert head.created == NOW
    check_body(head, b"body")


def test_every_request_has_a_nonce_of_its_own() -> None:
    again = sign_request(KEY, DEVICE, "POST", TARGET, b"body", NOW)
    other = verify({name.lower(): value for name, value in again.items()})
    assert other.nonce != verify().nonce


def test_another_body_is_refused() -> None:
    for body in (b"", b"bodY", b"body "):
        with pytest.raises(RefusedError) as caught:
            check_body(verify(), body)
        assert caught.value.reason is Reason.BAD_SIGNATURE


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "GET"},
        {"target": "/v1/work?model=1&wait=21"},
        {"target": "/v1/work"},
        {"target": "/v1/enrol?model=1&wait=20"},
        {"key": SigningKey.generate()},
        {"headers": {}},
    ],
)
def test_a_request_that_is_not_the_signed_one_is_refused(changes: dict[str, object]) -> None:
    assert reason_of(**changes) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("name", sorted(SIGNED))
def test_a_header_left_out_or_changed_is_refused(name: str) -> None:
    without = {key: value for key, value in SIGNED.items() if key != name}
    assert reason_of(headers=without) is Reason.BAD_SIGNATURE
    assert reason_of(headers={**SIGNED, name: SIGNED[name].replace("=", "=A", 1)}) is Reason.BAD_SIGNATURE
    assert reason_of(headers={**SIGNED, name: "x" * 5000}) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("component", ["@method", "@path", "@query"])
def test_a_signature_that_covers_less_is_refused(component: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(requests, "COVERED", tuple(name for name in requests.COVERED if name != component))
        less = sign_request(KEY, DEVICE, "POST", TARGET, b"body", NOW)
    headers = {name.lower(): value for name, value in less.items()}
    assert reason_of(headers=headers) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("offset", [-CLOCK_WINDOW_S - 1, CLOCK_WINDOW_S + 1, 10 * CLOCK_WINDOW_S])
def test_a_clock_outside_the_window_is_refused(offset: float) -> None:
    assert reason_of(now=NOW + offset) is Reason.CLOCK
    verify(now=NOW + CLOCK_WINDOW_S - 1)


def signature_base(parameters: str) -> str:
    """What a device would sign under these parameters: RFC 9421, section 2.5, written out."""
    path, _, query = TARGET.partition("?")
    values = ("POST", path, f"?{query}", SIGNED["content-digest"])
    lines = [f'"{name}": {value}' for name, value in zip(requests.COVERED, values, strict=True)]
    return "\n".join((*lines, f'"@signature-params": {parameters}'))


CHANGES: dict[str, tuple[str, str]] = {
    "nothing": ("", ""),
    "another order": (";created=1700000000", ""),
    "no creation time": (";created=1700000000", ""),
    "two creation times": (";created=", ";created=1;created="),
    "a creation time in quotes": (";created=1700000000", ';created="1700000000"'),
    "another purpose": (f'"{requests.TAG}"', '"another-tag"'),
    "no purpose": (f';tag="{requests.TAG}"', ""),
    "another algorithm": ('alg="ed25519"', 'alg="rsa-v1_5-sha256"'),
    "a short nonce": (";nonce=", ';nonce="short";x='),
    "two devices": (";keyid=", ';keyid="";keyid='),
    "more components": ('"content-digest")', '"content-digest" "date")'),
    "other components": ('("@method"', '("@authority"'),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_form_is_refused_although_the_device_itself_signed_it(name: str) -> None:
    old, new = CHANGES[name]
    stated = SIGNED["signature-input"]
    assert old in stated
    changed = stated.replace(old, new, 1)
    if name == "another order":
        changed = f"{changed};created=1700000000"
    parameters = changed.partition("=")[2]
    base = signature_base(parameters)
    signature = base64.b64encode(KEY.sign(base.encode())).decode()
    headers = {**SIGNED, "signature-input": changed, "signature": f"ember=:{signature}:"}
    if name in ("nothing", "another order"):
        assert verify(headers).device_id == DEVICE
    else:
        assert reason_of(headers=headers) is Reason.BAD_SIGNATURE


def test_a_signature_under_another_label_is_refused() -> None:
    changed = SIGNED["signature-input"].replace("ember=", "other=")
    assert reason_of(headers={**SIGNED, "signature-input": changed}) is Reason.BAD_SIGNATURE


def test_a_stranger_is_told_to_enrol() -> None:
    assert reason_of(key=None) is Reason.NOT_ENROLLED


@given(
    st.fixed_dictionaries(
        {},
        optional={name: st.text(st.characters(codec="latin-1"), max_size=120) for name in sorted(SIGNED)},
    )
)
def test_any_headers_raise_nothing_but_a_refusal(headers: dict[str, str]) -> None:
    assert reason_of(headers={**SIGNED, **headers} if headers else {}) in (
        Reason.BAD_SIGNATURE,
        Reason.NOT_ENROLLED,
    )
