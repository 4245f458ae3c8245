"""Money is a Decimal and a currency; it is rounded half to even, to the digits that ISO 4217 gives the currency."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from types import MappingProxyType

# ISO 4217:2015, list one: the currencies whose minor unit is not a hundredth.
_EXPONENTS = MappingProxyType(
    dict.fromkeys(
        "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split(),  # noqa: SIM905 - a table
        0,
    )
    | dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3)
    | dict.fromkeys(["CLF", "UYW"], 4)
)

# Sums and products of amounts are exact; only `rounded` rounds, and only divisions need these digits.
EXACT = Context(prec=50, rounding=ROUND_HALF_EVEN)


def exponent(currency: str) -> int:
    """How many decimal digits an amount has: JPY 0, USD 2, KWD 3."""
    return _EXPONENTS.get(currency, 2)


def rounded(amount: Decimal, currency: str) -> Decimal:
    """To the minor unit, half to even: 0.125 USD is 0.12."""
    return amount.quantize(Decimal(1).scaleb(-exponent(currency)), ROUND_HALF_EVEN, EXACT)


def plain(amount: Decimal) -> str:
    """In digits, never with an exponent: 100, not 1E+2."""
    return format(amount, "f")


def to_minor(amount: Decimal, currency: str) -> int:
    """In minor units. Raises ValueError for an amount that has no whole number of them."""
    minor = amount.scaleb(exponent(currency), EXACT)
    if minor != minor.to_integral_value():
        raise ValueError(f"{amount} {currency} is not a whole number of minor units")
    return int(minor)


def from_minor(minor: int, currency: str) -> Decimal:
    return Decimal(minor).scaleb(-exponent(currency), EXACT)
