"""A key that was mistyped is known as such without asking anyone, and a key opens only when and where it may."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.access.keys import ENTROPY_BYTES, check, compose, digest, digests, is_well_formed
from policies.model import Key, KeyStatus, Refusal, Refused

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIXES = st.from_regex(r"[a-z][a-z0-9]{1,7}", fullmatch=True)
ENTROPY = st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES)


@given(prefix=PREFIXES, entropy=ENTROPY)
def test_a_composed_key_is_well_formed(prefix: str, entropy: bytes) -> None:
    key = compose(prefix, entropy)
    assert re.fullmatch(rf"{prefix}_live_[0-9A-Za-z]{{36}}", key.secret)
    assert is_well_formed(prefix, key.secret.encode())


@given(entropy=ENTROPY)
def test_what_may_be_shown_does_not_give_the_key_away(entropy: bytes) -> None:
    key = compose("gw", entropy)
    assert key.secret.startswith(key.prefix)
    assert key.secret.endswith(key.last4)
    assert len(key.secret) - len(key.prefix) - len(key.last4) == 28
    assert len(key.prefix) == len("gw_live_") + 4


@given(first=ENTROPY, second=ENTROPY)
def test_the_key_depends_on_the_low_178_bits_of_the_entropy(first: bytes, second: bytes) -> None:
    modulus = 62**30
    are_equal = int.from_bytes(first, "big") % modulus == int.from_bytes(second, "big") % modulus
    assert (compose("gw", first) == compose("gw", second)) == are_equal


def test_too_little_entropy_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes of entropy, got 31"):
        compose("gw", b"\0" * 31)


def test_every_change_of_one_character_is_noticed() -> None:
    """CRC-32 finds every error burst of up to 32 bits, so none of these is luck."""
    secret = compose("gw", bytes(range(32))).secret
    changed = {
        secret[:position] + other + secret[position + 1 :]
        for position in range(len(secret))
        for other in ALPHABET + "_-. é"
        if other != secret[position]
    }
    assert len(changed) > 2500
    assert not [key for key in changed if is_well_formed("gw", key.encode())]


@given(entropy=ENTROPY, position=st.integers(8, 42))
def test_every_swap_of_neighbours_is_noticed(entropy: bytes, position: int) -> None:
    secret = compose("gw", entropy).secret
    swapped = secret[:position] + secret[position + 1] + secret[position] + secret[position + 2 :]
    assert is_well_formed("gw", swapped.encode()) == (swapped == secret)


@given(st.binary(max_size=60))
def test_anything_may_be_asked(junk: bytes) -> None:
    assert not is_well_formed("gw", junk)


def test_a_key_has_one_length() -> None:
    key = compose("gw", bytes(32)).secret.encode()
    assert not [other for other in (key[:-1], key[1:], key + b"0", b" " + key, b"") if is_well_formed("gw", other)]


def test_a_key_of_another_prefix_is_not_ours() -> None:
    assert not is_well_formed("gw", compose("xy", bytes(32)).secret.encode())


def test_a_digest_is_hmac_sha256_under_the_pepper() -> None:
    assert digest(b"key", b"pepper") == hmac.new(b"pepper", b"key", hashlib.sha256).digest()
    assert digest(b"key", b"pepper") != digest(b"key", b"other")


def test_digests_come_newest_pepper_first() -> None:
    assert list(digests(b"key", {1: b"a", 3: b"c", 2: b"b"}).items()) == [
        (3, digest(b"key", b"c")),
        (2, digest(b"key", b"b")),
        (1, digest(b"key", b"a")),
    ]


def _key(
    status: KeyStatus = KeyStatus.ACTIVE, *, expires_at: datetime | None = None, allowed_ips: tuple[str, ...] = ()
) -> Key:
    return Key(UUID(int=1), status, "gw_live_abcd", "wxyz", expires_at=expires_at, allowed_ips=allowed_ips)


PAST, FUTURE = NOW - timedelta(seconds=1), NOW + timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (_key(KeyStatus.REVOKED), Refusal.KEY_REVOKED),
        (_key(expires_at=PAST), Refusal.KEY_EXPIRED),
        (_key(expires_at=NOW), Refusal.KEY_EXPIRED),
        (_key(KeyStatus.DISABLED), Refusal.KEY_DISABLED),
        (_key(allowed_ips=("10.0.0.0/8",)), Refusal.IP_NOT_ALLOWED),
        # The first of several reasons, in the order of the contract.
        (_key(KeyStatus.REVOKED, expires_at=PAST, allowed_ips=("10.0.0.0/8",)), Refusal.KEY_REVOKED),
        (_key(KeyStatus.DISABLED, expires_at=PAST), Refusal.KEY_EXPIRED),
        (_key(KeyStatus.DISABLED, allowed_ips=("10.0.0.0/8",)), Refusal.KEY_DISABLED),
    ],
)
def test_a_key_that_may_not_be_used_is_refused(key: Key, code: Refusal) -> None:
    with pytest.raises(Refused) as refused:
        check(key, NOW, client_ip="192.0.2.7")
    assert (refused.value.code, refused.value.extras) == (code, {})


@pytest.mark.parametrize("key", [_key(), _key(expires_at=FUTURE), _key(allowed_ips=("192.0.2.0/24", "10.0.0.0/8"))])
def test_a_key_that_may_be_used_passes(key: Key) -> None:
    check(key, NOW, client_ip="192.0.2.7")


@pytest.mark.parametrize(
    ("allowed", "client_ip", "passes"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7/32", "192.0.2.8", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::/32", "192.0.2.7", False),
        ("0.0.0.0/0", "203.0.113.9", True),
        ("0.0.0.0/0", "::1", False),
        ("0.0.0.0/0", "unknown", False),
        ("0.0.0.0/0", "", False),
    ],
)
def test_addresses_are_matched_by_network(allowed: str, client_ip: str, passes: bool) -> None:
    key = _key(allowed_ips=(allowed,))
    if passes:
        check(key, NOW, client_ip=client_ip)
    else:
        with pytest.raises(Refused):
            check(key, NOW, client_ip=client_ip)
