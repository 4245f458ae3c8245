"""GCRA by its definition: bursts, then a steady pace, and nobody waits longer for having been refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.access.throttling import Pace, neighbourhood, network, subject, take, wait_seconds

paces = st.builds(Pace, burst=st.integers(1, 20), seconds_each=st.integers(1, 1000).map(lambda each: each / 10))


@given(paces, st.lists(st.integers(0, 300), max_size=60))
def test_no_stretch_of_time_sees_more_than_a_burst_and_its_pace(pace: Pace, gaps: list[int]) -> None:
    free_at = now = 0.0
    taken: list[float] = []
    for gap in gaps:
        now += gap
        ahead = take(free_at - now, pace)
        if ahead is not None:
            free_at = now + ahead
            taken.append(now)
    for index, first in enumerate(taken):
        for count, last in enumerate(taken[index:], start=1):
            assert count <= pace.burst + (last - first) / pace.seconds_each + 1e-3


@given(paces, st.integers(0, 500))
def test_after_the_wait_one_more_is_taken_and_not_a_second_earlier(pace: Pace, attempts: int) -> None:
    ahead = 0.0
    for _ in range(attempts):
        ahead = take(ahead, pace) or ahead
    if take(ahead, pace) is None:
        wait = wait_seconds(ahead, pace)
        assert take(ahead - wait, pace) is not None
        assert wait == 1 or take(ahead - (wait - 1), pace) is None
        assert wait <= pace.seconds_each + 1  # refused attempts take nothing: nobody is locked out by them


@pytest.mark.parametrize(
    ("address", "whose", "site"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/64", "fe80::/48"),
        ("a.b.c", "a.b.c", "a.b.c"),
        ("", "", ""),
    ],
)
def test_a_customer_has_one_neighbourhood_and_one_network(address: str, whose: str, site: str) -> None:
    assert (neighbourhood(address), network(address)) == (whose, site)


def test_a_subject_is_one_in_any_case_and_another_for_another_action() -> None:
    pace = Pace(1, 1)
    assert subject("login", "Ada@example.com", pace) == subject("login", "ada@example.COM", pace)
    assert subject("login", "ada@example.com", pace) != subject("mail", "ada@example.com", pace)
