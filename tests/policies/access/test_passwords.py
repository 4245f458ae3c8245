"""Passwords that everybody guesses first are refused, and no others."""

from __future__ import annotations

import pytest

from policies.access.passwords import objection


@pytest.mark.parametrize(
    "common",
    [
        *("password", "Password1!", "p4ssw0rd", "P@ssw0rd", "passwort123", "letmein!!", "iloveyou", "welcome2024"),
        *("12345678", "1234567890", "87654321", "qwertyuiop", "QWERTZUIOP1", "asdfghjkl", "abcdefgh", "1q2w3e4r"),
        *("aaaaaaaa", "11111111", "abababab", "admin123", "test1234", "changeme", "1qaz2wsx", "\uff50assword"),
    ],
)
def test_password_that_is_guessed_first_is_refused(common: str) -> None:
    assert objection(common) is not None


@pytest.mark.parametrize(
    "good",
    [
        *("correct horse battery", "hunter2hunter2", "password manager of mine", "Tr0ub4dor&3", "kX9#mmQ2", "83920174"),
        *(
            "another horse, another battery",
            "s3cret-of-ada",
            "wie w\u00e4re es damit",
            "\u79d8\u5bc6\u306e\u8a00\u8449\u3067\u3059\u3088",
        ),
    ],
)
def test_other_password_is_taken(good: str) -> None:
    assert objection(good, email="ada@example.com") is None


@pytest.mark.parametrize("same", ["ada.lovelace@example.com", "Ada.Lovelace", "ADA.LOVELACE@EXAMPLE.COM"])
def test_password_that_is_the_address_is_refused(same: str) -> None:
    assert objection(same, email="ada.lovelace@example.com") == "must not be the e-mail address"
