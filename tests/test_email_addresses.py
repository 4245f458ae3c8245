"""An address names one plain mailbox, so that what is verified is where mail goes."""

from __future__ import annotations

from email.headerregistry import Address
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.email_addresses import InvalidEmail, is_plain, looked_up, normalised


@pytest.mark.parametrize(
    ("given_address", "stored"),
    [
        ("ada@example.com", "ada@example.com"),
        ("  Ada.Lovelace+gateway@Example.COM ", "Ada.Lovelace+gateway@example.com"),
        ("o'brien@mail.example.co.uk", "o'brien@mail.example.co.uk"),
        ("ada@localhost", "ada@localhost"),
        ("ada@b\u00fccher.example", "ada@xn--bcher-kva.example"),
        ("ada@B\u00dcCHER.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
    ],
)
def test_mailbox_is_stored_in_one_spelling(given_address: str, stored: str) -> None:
    assert normalised(given_address) == stored
    assert is_plain(stored)
    assert normalised(stored) == stored


@pytest.mark.parametrize("erased", ["ada@deleted.invalid", " ada@Deleted.INVALID"])
def test_address_of_an_erased_account_is_refused(erased: str) -> None:
    with pytest.raises(InvalidEmail):
        normalised(erased)
    assert normalised("ada@not.deleted.invalid") == "ada@not.deleted.invalid"


@pytest.mark.parametrize(
    "hostile",
    [
        *("x<v@x.com>", "v@x.com,evil", "v@x.com,e@x.com", "v@x.com;e@x.com", "v@x.com(a)", "(a)v@x.com", '"v"@x.com'),
        *("=?utf-8?q?a?=@x.de", "v%x.com@relay.example", "x.com!v@relay.example", "@relay.example:v@x.com"),
        *("v@x.com\nbcc: e@x.com", "v@x.com\r\nx", "v\0@x.com", "v@x.com\t e", "v @x.com", "v@ x.com", "v\u2028@x.com"),
        *("v@[192.0.2.1]", "v@192.0.2.1", "v@x..com", ".v@x.com", "v.@x.com", "v..w@x.com", "v@-x.com", "v@x-.com"),
        *("\u0130@x.com", "\u212a@x.com", "v\uff20x.com", "v@x\u2024com\u200b", "v@\ud800.com", "v@e\u2100il.com"),
        *("v", "@x.com", "v@", "", "a@b@c.com", "v@" + "x" * 64 + ".com", "v" * 250 + "@x.com", "v@x.com."),
    ],
)
def test_anything_but_one_plain_mailbox_is_refused(hostile: str) -> None:
    with pytest.raises(InvalidEmail):
        normalised(hostile)
    assert not is_plain(hostile)
    assert looked_up(hostile) == hostile.strip()  # an account of an earlier release is found by it


@given(st.text(max_size=40), st.sampled_from(["x.com", "\u0130.com", "b\u00fccher.de", "[::1]", "x.com>", "x,y.com"]))
def test_accepted_address_survives_a_message_unchanged(local: str, domain: str) -> None:
    try:
        address = normalised(f"{local}@{domain}")
    except InvalidEmail:
        return
    message = EmailMessage()
    message["To"] = address
    (only,) = message["To"].addresses
    assert only.addr_spec == address == Address(addr_spec=address).addr_spec
