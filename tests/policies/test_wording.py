from __future__ import annotations

from decimal import Decimal

import pytest

from policies.wording import counted


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (0, "0 credits"),
        (1, "1 credit"),
        (2, "2 credits"),
        (Decimal("1.00"), "1 credit"),
        (Decimal("0.5"), "0.5 credits"),
        (Decimal("1E+3"), "1000 credits"),
    ],
)
def test_counted_puts_one_alone_in_the_singular(number: int | Decimal, sentence: str) -> None:
    assert counted(number, "credit") == sentence
