"""Tokens: keys of their own for each purpose, one-time tokens that only the secret makes, theft told from age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.access.tokens import Purpose, RefreshState, Verdict, derive, judge, one_time, read_one_time, refresh_token

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)
LATER, EARLIER = NOON + timedelta(seconds=1), NOON - timedelta(seconds=1)


@given(st.text(), st.sampled_from(Purpose), st.uuids())
def test_a_one_time_token_is_read_as_it_was_made(secret: str, purpose: Purpose, token_id: UUID) -> None:
    token = one_time(secret, purpose, token_id)
    assert len(token) == 43
    assert read_one_time(secret, purpose, token) == token_id
    others = [each for each in Purpose if each is not purpose]
    assert all(read_one_time(secret, each, token) is None for each in others)
    assert read_one_time(secret + "x", purpose, token) is None


@given(st.text(max_size=60), st.integers(0, 42), st.integers(0, 255))
def test_what_was_not_made_here_is_read_as_nothing(junk: str, position: int, byte: int) -> None:
    assert read_one_time("secret", Purpose.ACCESS, junk) is None
    token = one_time("secret", Purpose.ACCESS, UUID(int=7))
    altered = token[:position] + chr(byte) + token[position + 1 :]
    if altered != token and position < 42:  # the last character holds two bits that base64 does not use
        assert read_one_time("secret", Purpose.ACCESS, altered) is None


def test_every_purpose_has_a_key_of_its_own() -> None:
    assert len({derive("secret", purpose) for purpose in Purpose}) == len(Purpose)
    assert {len(derive("", purpose)) for purpose in Purpose} == {32}


@pytest.mark.parametrize(
    ("used", "revoked", "expires", "verdict"),
    [
        (None, None, LATER, Verdict.GOOD),
        (None, None, NOON, Verdict.EXPIRED),
        (EARLIER, None, LATER, Verdict.REUSED),
        (EARLIER, None, EARLIER, Verdict.REUSED),
        (None, EARLIER, LATER, Verdict.REVOKED),
        (EARLIER, EARLIER, LATER, Verdict.REVOKED),
    ],
)
def test_a_refresh_token_is_judged_by_its_past(
    used: datetime | None, revoked: datetime | None, expires: datetime, verdict: Verdict
) -> None:
    assert judge(RefreshState(used, revoked, expires), NOON) is verdict


def test_a_refresh_token_is_good_again_for_the_window_after_its_first_use() -> None:
    used = RefreshState(EARLIER, None, LATER)
    assert judge(used, NOON, reuse_window=NOON - EARLIER) is Verdict.REUSED
    assert judge(used, NOON, reuse_window=NOON - EARLIER + timedelta(microseconds=1)) is Verdict.GOOD
    assert judge(RefreshState(EARLIER, EARLIER, LATER), NOON, reuse_window=timedelta(days=1)) is Verdict.REVOKED


def test_a_refresh_token_shows_what_it_is() -> None:
    assert refresh_token(bytes(32)) == "gwr_" + "A" * 43
