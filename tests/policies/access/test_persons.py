"""Spellings of one mailbox are one person; what is kept of it depends on the secret."""

from __future__ import annotations

import pytest

from policies.access.persons import digest, mailbox
from policies.access.tokens import Purpose, derive


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada@example.com", "ADA@Example.COM"),
        ("ada@example.com", "ada+trial@example.com"),
        ("ada@example.com", "ada+a+b@example.com"),
        ("ada.lovelace@gmail.com", "adalovelace+x@googlemail.com"),
    ],
)
def test_spellings_of_a_mailbox_are_one_person(one: str, other: str) -> None:
    assert digest("secret", one) == digest("secret", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada@example.com", "ada@example.org"),
        ("ada.l@example.com", "adal@example.com"),
        ("+ada@example.com", "+eve@example.com"),
    ],
)
def test_other_mailboxes_are_other_persons(one: str, other: str) -> None:
    assert digest("secret", one) != digest("secret", other)


def test_digest_needs_the_secret_and_is_not_that_of_another_purpose() -> None:
    assert digest("a", "ada@example.com") != digest("b", "ada@example.com")
    assert derive("a", Purpose.PERSON) != derive("a", Purpose.ACCESS)
    assert mailbox("+ada@example.com") == "+ada@example.com"
