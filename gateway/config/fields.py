"""The types of settings: what a field may hold, named once, so that sections read as tables."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field

from gateway.config import quantities
from gateway.config.quantities import Address, IPNetwork

# Strict, because a lenient `true` would pass for 1.
Positive = Annotated[int, Field(strict=True, ge=1)]
NotNegative = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Size = Annotated[int, BeforeValidator(quantities.size_bytes)]
Duration = Annotated[float, BeforeValidator(quantities.duration_seconds)]
Timeout = Annotated[float, BeforeValidator(quantities.positive_duration_seconds)]
Listen = Annotated[Address, BeforeValidator(quantities.listen_address)]
Network = Annotated[IPNetwork, BeforeValidator(quantities.network)]
Amount = Annotated[Decimal, BeforeValidator(quantities.decimal_amount)]
Currency = Annotated[str, BeforeValidator(quantities.currency_code)]
Target = Annotated[str, BeforeValidator(quantities.http_origin)]
Url = Annotated[str, BeforeValidator(quantities.http_url)]
Text = Annotated[str, BeforeValidator(quantities.text)]
Word = Annotated[str, BeforeValidator(quantities.word)]
