"""Products, which group plans."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.api.admin.dependencies import UnitOfWorkDep
from gateway.api.admin.preconditions import STALE, PreconditionDep, TaggingDep
from gateway.api.errors import Conflict
from gateway.api.openapi import CONFLICTS, UNKNOWN
from gateway.api.schemas.fields import Flag, Line, Metadata, Text
from gateway.api.schemas.pages import PageModel, PageQuery, PatchModel, RequestModel, ResponseModel, page_of, unset
from gateway.ledger.catalogue import products
from gateway.ledger.db.errors import InUse, NotFound

router = APIRouter(prefix="/products", tags=["products"])


class Product(ResponseModel):
    id: UUID
    name: str
    description: str | None
    is_active: bool
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class NewProduct(RequestModel):
    name: Line = Field(examples=["Review analysis"])
    description: Text | None = None
    is_active: Flag = True
    metadata: Metadata = Field(default_factory=dict)


class ProductPatch(PatchModel):
    name: Line = unset()
    description: Text | None = None
    is_active: Flag = unset()
    metadata: Metadata = unset()


@router.post("", status_code=201, summary="Create a product", responses=CONFLICTS)
async def create_product(body: NewProduct, unit_of_work: UnitOfWorkDep) -> Product:
    async with unit_of_work.change() as change:
        created = Product.model_validate(await products.create(change.connection, **body.model_dump()))
        await change.record("products.create", "product", entity_id=created.id, after=created)
    return created


@router.get("", summary="List products")
async def list_products(query: Annotated[PageQuery, Query()], unit_of_work: UnitOfWorkDep) -> PageModel[Product]:
    async with unit_of_work.read() as connection:
        page = await products.list_products(connection, cursor=query.cursor, limit=query.limit)
    return page_of(page, Product.model_validate)


@router.get("/{product_id}", summary="Get a product", responses=UNKNOWN)
async def get_product(product_id: UUID, unit_of_work: UnitOfWorkDep, tagging: TaggingDep) -> Product:
    async with unit_of_work.read() as connection:
        row = await products.get(connection, product_id)
    if row is None:
        raise NotFound("product", product_id)
    return tagging.tagged(Product.model_validate(row))


@router.patch("/{product_id}", summary="Change a product", responses=UNKNOWN | CONFLICTS | STALE)
async def change_product(
    product_id: UUID, patch: ProductPatch, unit_of_work: UnitOfWorkDep, precondition: PreconditionDep
) -> Product:
    async with unit_of_work.change() as change:
        before = Product.model_validate(await products.get_for_update(change.connection, product_id))
        precondition.check(before)
        after = Product.model_validate(await products.patch(change.connection, product_id, **patch.changes()))
        await change.record("products.change", "product", entity_id=product_id, before=before, after=after)
    return precondition.tagged(after)


@router.delete("/{product_id}", status_code=204, summary="Delete a product", responses=UNKNOWN | CONFLICTS | STALE)
async def delete_product(product_id: UUID, unit_of_work: UnitOfWorkDep, precondition: PreconditionDep) -> None:
    """Only one that no plan belongs to; any other can be made inactive."""
    async with unit_of_work.change() as change:
        before = Product.model_validate(await products.get_for_update(change.connection, product_id))
        precondition.check(before)
        try:
            await products.remove(change.connection, product_id)
        except InUse:
            raise Conflict("Plans belong to this product: delete or move them, or set is_active to false.") from None
        await change.record("products.delete", "product", entity_id=product_id, before=before)
