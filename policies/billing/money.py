"""Money is a Decimal and a currency; it is rounded half to even, to the digits that ISO 4217 gives the currency."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from types import MappingProxyType
from typing import NamedTuple

# ISO 4217:2015, list one: the currencies whose minor unit is not a hundredth.
_EXPONENTS = MappingProxyType(
    dict.fromkeys(
        "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split(),  # noqa: SIM905 - a table
        0,
    )
    | dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3)
    | dict.fromkeys(["CLF", "UYW"], 4)
)

# ISO 4217, list one of 2026: the currencies in use, without metals, test codes and units of account of banks.
CURRENCIES = frozenset(
    word
    for line in (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD",
        "CDF CHF CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP",
        "GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD",
        "KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO",
        "NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS",
        "SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS VED VES",
        "VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG",
    )
    for word in line.split()
)

_FINEST_DIGITS = 6  # of the price of one call, as usage rows keep US dollars
# Sums and products of amounts are exact; only `rounded` rounds, and only divisions need these digits.
EXACT = Context(prec=50, rounding=ROUND_HALF_EVEN)


def exponent(currency: str) -> int:
    """How many decimal digits an amount has: JPY 0, USD 2, KWD 3."""
    return _EXPONENTS.get(currency, 2)


def rounded(amount: Decimal, currency: str) -> Decimal:
    """To the minor unit, half to even: 0.125 USD is 0.12."""
    return amount.quantize(Decimal(1).scaleb(-exponent(currency)), ROUND_HALF_EVEN, EXACT)


def fits(amount: Decimal, currency: str) -> bool:
    """Whether the amount is a whole number of minor units: 9.99 is no amount of yen."""
    return amount == rounded(amount, currency)


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


@dataclass(frozen=True, slots=True)
class CreditValue:
    """`per_unit` credits are one unit of the currency."""

    currency: str
    per_unit: Decimal

    def amount(self, credits: int | Decimal) -> Decimal:
        """Of a balance, rounded to the minor unit: of 100000 a dollar, 123456 are 1.23."""
        return rounded(self._exact(credits), self.currency)

    def fine_amount(self, credits: int | Decimal) -> Decimal:
        """Of one call, to six digits at least, for many calls cost less than a minor unit."""
        digits = max(_FINEST_DIGITS, exponent(self.currency))
        return self._exact(credits).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN, EXACT)

    def _exact(self, credits: int | Decimal) -> Decimal:
        return EXACT.divide(Decimal(credits), self.per_unit)


COST_CURRENCY = "USD"  # no exchange rate is assumed
_MICRO = Decimal("0.000001")


class Margin(NamedTuple):
    """What calls earn: their credits as money, and what is left of it after the upstreams' costs; None if unknown."""

    revenue_usd: Decimal | None
    margin_usd: Decimal | None


def margin(credits: int, cost_usd: Decimal, value: CreditValue | None) -> Margin:
    """Unknown where credits have no value in the currency of costs."""
    if value is None or value.currency != COST_CURRENCY:
        return Margin(None, None)
    revenue = EXACT.divide(Decimal(credits), value.per_unit).quantize(_MICRO, context=EXACT)
    return Margin(revenue, revenue - cost_usd)
