"""Who issues invoices, and on which terms; and to whom, as of the moment of issue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Seller:
    """Who issues the invoices. `address` and `bank` are lines of print; empty where the operator gave none."""

    name: str = ""
    address: tuple[str, ...] = ()
    tax_id: str = ""
    email: str = ""
    bank: tuple[str, ...] = ()
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Buyer:
    """Whom an invoice is for. `address` is lines of print; `time_zone` is that of the billing periods."""

    name: str = ""
    company: str = ""
    email: str = ""
    address: tuple[str, ...] = ()
    vat_id: str = ""
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """The terms on which invoices are issued now; what is issued keeps them."""

    seller: Seller = Seller()
    tax_rate: Decimal = Decimal(0)
    prefix: str = "INV"
    due_after: timedelta = timedelta(days=14)

    def full_number(self, number: int, at: datetime) -> str:
        """INV-2026-000012. The number alone is unique and without gaps; it goes on over the end of a year."""
        return f"{self.prefix}-{at.astimezone(zone(self.seller.time_zone)):%Y}-{number:06}"

    def due_at(self, issued_at: datetime) -> datetime:
        return issued_at + self.due_after


def to_json(party: Seller | Buyer) -> dict[str, Any]:
    """Without what is empty."""
    return {name: list(each) if isinstance(each, tuple) else each for name, each in asdict(party).items() if each}


def seller_from_json(stored: Mapping[str, Any]) -> Seller:
    """The inverse of `to_json`; members that this release does not know are left out."""
    return Seller(**_fields(Seller, stored))


def buyer_from_json(stored: Mapping[str, Any]) -> Buyer:
    return Buyer(**_fields(Buyer, stored))


def zone(name: str) -> ZoneInfo | Any:
    """UTC for a name that the time zone database does not have."""
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        return UTC


def _fields(kind: type[Seller] | type[Buyer], stored: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: stored[name] for name in kind.__slots__ if name in stored}
    return {name: tuple(each) if isinstance(each, list) else each for name, each in known.items()}
