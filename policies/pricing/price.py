"""The plain price of a route: credits for each so many units, which one pointer or the call itself counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from policies.pricing.units import CountSource, PriceUnit


@dataclass(frozen=True, slots=True)
class Price:
    """`credits` for each `unit_size` units, at least `minimum` and at most `maximum` for a call.

    The units are counted at the first of `pointers` (JSON Pointers, RFC 6901) that resolves in the body of `source`.
    Without a source they are counted by the clock, or the call is the unit. `default` is what a request without any of
    the pointers counts as. `hold` is reserved while a call runs whose units only its response tells. A response that
    has something at `error_pointer` is an error, whatever its status. `is_fixed` says that the price of a call is known
    before its response is, and that no response changes it.
    """

    credits: Decimal
    unit: PriceUnit = PriceUnit.CALL
    unit_size: int = 1
    source: CountSource | None = None
    pointers: tuple[str, ...] = ()
    default: int | None = None
    minimum: int = 0
    maximum: int | None = None
    hold: int | None = None
    error_pointer: str | None = None
    is_fixed: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Each call asks for it.
        object.__setattr__(self, "is_fixed", self.is_known_at_admission and self.error_pointer is None)

    @property
    def is_counted_in_request(self) -> bool:
        return self.source is CountSource.REQUEST

    @property
    def is_known_at_admission(self) -> bool:
        """Whether the price of a call is known before its response is."""
        return self.unit is PriceUnit.CALL or self.is_counted_in_request

    @property
    def is_free(self) -> bool:
        """A free route is limited and recorded, and open to an account without credits."""
        return not self.minimum and not self.credits
