"""Products and plans. What is here already, by id or name, is used as it is and never overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.importing.records import Record
from gateway.importing.targets import Result, Target, UnfitField, check_money
from gateway.ledger.catalogue import permissions, plans, products
from gateway.ledger.catalogue.plans import PlanTerms
from policies.billing.periods import LONGEST, LONGEST_TRIAL_DAYS
from policies.billing.providers import ID_FIELDS

_TERMS = (
    *("name", "price", "description", "currency", "billing_interval", "billing_interval_count", "trial_period_days"),
    *("credits_per_period", "credits_rollover", "requests_per_minute", "requests_per_hour", "max_api_calls_per_day"),
    *("max_concurrent_requests", "max_products_per_batch", "max_file_size_bytes", "features", "is_active"),
    "sort_order",
)


class ProductWriter:
    def __init__(self, target: Target) -> None:
        self._target = target

    async def begin_batch(self, connection: AsyncConnection, batch: Sequence[Record]) -> None:
        """Products are few."""

    async def write(self, connection: AsyncConnection, record: Record) -> Result:
        found = await products.find(connection, record.fields["name"])
        if found is not None:
            self._target.product_ids[record.key] = found.id
            return Result.PRESENT
        created = await products.create(connection, **record.only("name", "description", "is_active"))
        self._target.product_ids[record.key] = created.id
        after = record.only("name", "description", "is_active")
        await self._target.record(connection, "products.import", "product", entity_id=created.id, after=after)
        return Result.IMPORTED


class PlanWriter:
    """Permissions that a plan lists are created."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def begin_batch(self, connection: AsyncConnection, batch: Sequence[Record]) -> None:
        """Plans are few."""

    async def write(self, connection: AsyncConnection, record: Record) -> Result:
        name, listed = record.fields["name"], record.fields.get("permissions", ())
        plan_id = record.fields.get("id") or plans.slug_of(name)
        found = await plans.find(connection, plan_id) or await plans.find(connection, name)
        if found is not None:
            self._target.plan_ids[record.key] = found.id
            return Result.PRESENT
        terms = self._terms(record)
        await permissions.create_missing(connection, listed)
        created = await plans.create(connection, terms, plan_id=plan_id, permissions=listed)
        self._target.plan_ids[record.key] = created.id
        after = record.only(*_TERMS, *ID_FIELDS)
        await self._target.record(connection, "plans.import", "plan", entity_id=created.id, after=after)
        return Result.IMPORTED

    def _terms(self, record: Record) -> PlanTerms:
        terms = PlanTerms(
            **record.only(*_TERMS),
            product_id=self._product(record),
            provider_ids=record.only(*ID_FIELDS),
        )
        check_money(terms.currency, price=terms.price)
        longest = LONGEST[terms.billing_interval]
        if not 1 <= terms.billing_interval_count <= longest:
            raise UnfitField("billing_interval_count", f"is not 1 to {longest} of {terms.billing_interval}")
        if terms.trial_period_days > LONGEST_TRIAL_DAYS:
            raise UnfitField("trial_period_days", f"is over {LONGEST_TRIAL_DAYS}")
        return terms

    def _product(self, record: Record) -> UUID | None:
        key: str | None = record.fields.get("product")
        if key is None:
            return None
        if key not in self._target.product_ids:
            raise UnfitField("product", f"refers to product {key}, which is not imported")
        return self._target.product_ids[key]
