"""Import of keys from another system by their digests, so that its customers keep their keys.

The keys themselves are unknown until they are used. Keys of another form than ours have no checksum: they are looked
up only if they begin like an imported key, and the first use of a key with a plain SHA-256 stores its HMAC instead.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter
from pydantic import ConfigDict, Field, StringConstraints

from gateway.api.admin.accounts.keys import KeySettings
from gateway.api.admin.dependencies import DependenciesDep, UnitOfWorkDep
from gateway.api.errors import Invalid
from gateway.api.schemas.api_keys import Key, key_model
from gateway.api.schemas.fields import PositiveCount
from gateway.api.schemas.pages import RequestModel, ResponseModel
from gateway.api.unit_of_work import Change
from gateway.clock import now
from gateway.ledger.accounts import api_keys, imported_keys
from gateway.ledger.accounts.imported_keys import ForeignKey
from gateway.ledger.db.errors import AlreadyExists, NotFound
from policies.model import KeyScheme

router = APIRouter(prefix="/keys", tags=["keys"])

MAX_KEYS = 500

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Prefix = Annotated[str, StringConstraints(pattern=r"^[!-~]{3,32}$")]
Last4 = Annotated[str, StringConstraints(pattern=r"^[!-~]{4}$")]


class KeyToImport(KeySettings):
    digest: Digest = Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])
    prefix: Prefix = Field(examples=["acme_"], description="How the key begins, exactly.")
    last4: Last4 = Field(examples=["7Qz9"])


EXAMPLE = {
    "user_id": "00000000-0000-4000-8000-000000000000",
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "prefix": "acme_",
    "last4": "7Qz9",
}


class KeyImport(RequestModel):
    """`sha256`: of the key. `hmac-sha256`: of the key under the pepper of `pepper_version`, where it is configured."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"algorithm": {"const": "sha256"}, "pepper_version": {"type": "null"}}},
                {"properties": {"pepper_version": {"type": "integer"}}, "required": ["pepper_version"]},
            ]
        }
    )

    algorithm: KeyScheme = Field(examples=["sha256"])
    pepper_version: PositiveCount | None = Field(default=None, description="Of `hmac-sha256`.")
    keys: Annotated[list[KeyToImport], Field(min_length=1, max_length=MAX_KEYS)] = Field(examples=[[EXAMPLE]])


class ImportedKey(ResponseModel):
    index: int = Field(description="In the list that was sent.")
    key: Key


class FailedKey(ResponseModel):
    index: int
    code: str = Field(examples=["conflict"])
    detail: str


class KeyImportReport(ResponseModel):
    imported: list[ImportedKey]
    failed: list[FailedKey]


@router.post("/import", summary="Import keys by their digests")
async def import_keys(body: KeyImport, unit_of_work: UnitOfWorkDep, dependencies: DependenciesDep) -> KeyImportReport:
    """Each key is imported or not, by itself; sending the list again imports what failed."""
    version = _pepper_version(body, dependencies.peppers.keys())
    imported, failed = [], []
    async with unit_of_work.change() as change:
        for index, each in enumerate(body.keys):
            result = await _import(change, each, body.algorithm, version=version, own_prefix=dependencies.key_prefix)
            if isinstance(result, api_keys.ApiKey):
                key = key_model(result, now())
                await change.record("keys.import", "key", entity_id=key.id, after=key)
                imported.append(ImportedKey(index=index, key=key))
            else:
                code, detail = result
                failed.append(FailedKey(index=index, code=code, detail=detail))
    return KeyImportReport(imported=imported, failed=failed)


def _pepper_version(body: KeyImport, configured: Collection[int]) -> int:
    if body.algorithm is KeyScheme.SHA256:
        if body.pepper_version is not None:
            raise Invalid("pepper_version", "only of hmac-sha256")
        return max(configured)
    if body.pepper_version is None or body.pepper_version not in configured:
        known = ", ".join(map(str, sorted(configured)))
        raise Invalid("pepper_version", f"must be one that is configured: {known}")
    return body.pepper_version


async def _import(
    change: Change, body: KeyToImport, scheme: KeyScheme, *, version: int, own_prefix: str
) -> api_keys.ApiKey | tuple[str, str]:
    settings = body.model_dump(exclude={"user_id", "digest", "prefix", "last4"})
    key = ForeignKey(
        digest=bytes.fromhex(body.digest),
        prefix=body.prefix,
        last4=body.last4,
        scheme=scheme,
        pepper_version=version,
    )
    try:
        return await imported_keys.create(change.connection, body.user_id, key=key, own_prefix=own_prefix, **settings)
    except NotFound as missing:
        if missing.entity == "user":
            return "not_found", f"There is no user {body.user_id}."
        return "validation_failed", f"permissions: {missing}"
    except AlreadyExists:
        return "conflict", "A key of this digest is here already."
