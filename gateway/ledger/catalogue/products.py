"""Products, which group plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.db.errors import NotFound, checked
from gateway.ledger.db.rows import Page, columns, page_by_time, value
from gateway.ledger.db.tables import products


@dataclass(frozen=True, slots=True)
class Product:
    id: UUID
    name: str
    description: str | None
    is_active: bool
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime


class ProductFields(TypedDict, total=False):
    name: str
    description: str | None
    is_active: bool
    metadata: Mapping[str, Any]


_COLUMNS = columns(products, Product)


async def create(connection: AsyncConnection, **values: Unpack[ProductFields]) -> Product:
    """Raises AlreadyExists for a taken name."""
    async with checked(connection, "product"):
        statement = insert(products).values(**values).returning(*_COLUMNS)
        return value(Product, (await connection.execute(statement)).one())


async def get(connection: AsyncConnection, product_id: UUID) -> Product | None:
    row = (await connection.execute(select(*_COLUMNS).where(products.c.id == product_id))).one_or_none()
    return None if row is None else value(Product, row)


async def find(connection: AsyncConnection, name: str) -> Product | None:
    """The product of this name."""
    row = (await connection.execute(select(*_COLUMNS).where(products.c.name == name))).one_or_none()
    return None if row is None else value(Product, row)


async def get_for_update(connection: AsyncConnection, product_id: UUID) -> Product:
    """The product, locked until the transaction ends. Raises NotFound."""
    query = select(*_COLUMNS).where(products.c.id == product_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound("product", product_id)
    return value(Product, row)


async def list_products(connection: AsyncConnection, *, cursor: str | None = None, limit: int = 50) -> Page[Product]:
    return await page_by_time(connection, select(*_COLUMNS), Product, cursor=cursor, limit=limit)


async def patch(connection: AsyncConnection, product_id: UUID, **changes: Unpack[ProductFields]) -> Product:
    """Changes the named fields. Raises AlreadyExists for a taken name."""
    changed = update(products).where(products.c.id == product_id).values(**changes).returning(*_COLUMNS)
    async with checked(connection, "product"):
        return value(Product, (await connection.execute(changed)).one())


async def remove(connection: AsyncConnection, product_id: UUID) -> None:
    """Raises InUse while a plan belongs to it."""
    async with checked(connection, "product"):
        await connection.execute(delete(products).where(products.c.id == product_id))
