"""`gateway keys create`, `list`, `revoke` and `rotate`."""

from __future__ import annotations

from datetime import datetime, timedelta
from secrets import token_bytes
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli.arguments import MAX_SECONDS, future_moment, line
from gateway.cli.console import AsJson, ConfigFile, DataDir, load_config, print_object, print_rows
from gateway.cli.transactions import ACTOR, find_user, run_in_transaction
from gateway.clock import now
from gateway.ledger.accounts import api_keys
from gateway.ledger.accounts.api_keys import ApiKey
from gateway.ledger.audit import audit_log
from policies.access.keys import ENTROPY_BYTES, compose

app = typer.Typer(help="API keys.", no_args_is_help=True)

KeyId = Annotated[UUID, typer.Argument(help="The key's id, as `keys list` shows it.")]


@app.command()
def create(
    user: Annotated[str, typer.Option(help="The user's id or e-mail address.")],
    name: Annotated[str, typer.Option(parser=line, metavar="<str>", help="What the key is for.")] = "default",
    expires: Annotated[
        datetime | None,
        typer.Option(parser=future_moment, metavar="MOMENT", help="When it stops working; without an offset in UTC."),
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Create a key. It is shown this once."""
    settings = load_config(config, data_dir)
    secret = compose(settings.keys.prefix, token_bytes(ENTROPY_BYTES))

    async def work(connection: AsyncConnection) -> dict[str, Any]:
        owner = await find_user(connection, user)
        fingerprint = api_keys.fingerprint(secret, settings.secrets.peppers)
        key = await api_keys.create(connection, owner.id, fingerprint=fingerprint, name=name, expires_at=expires)
        await _record(connection, "keys.create", key)
        return {**_key_fields(key), "key": secret.secret}

    print_object(run_in_transaction(settings, work), as_json=as_json)


@app.command("list")
def list_all(
    user: Annotated[str | None, typer.Option(help="Only this user's, by id or e-mail address.")] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List keys, newest first."""

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        owner = None if user is None else (await find_user(connection, user)).id
        rows, cursor = [], None
        while True:
            page = await api_keys.list_keys(connection, user_id=owner, cursor=cursor, limit=500)
            rows += [_key_fields(key) for key in page.data]
            cursor = page.next_cursor
            if cursor is None:
                return rows

    print_rows(run_in_transaction(load_config(config, data_dir), work), as_json=as_json)


@app.command()
def revoke(key: KeyId, config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Revoke a key for good: it is refused from the next request on."""

    async def work(connection: AsyncConnection) -> dict[str, Any]:
        revoked = await api_keys.revoke(connection, key)
        await _record(connection, "keys.revoke", revoked)
        return _key_fields(revoked)

    print_object(run_in_transaction(load_config(config, data_dir), work), as_json=as_json)


@app.command()
def rotate(
    key: KeyId,
    grace_seconds: Annotated[
        int, typer.Option(min=0, max=MAX_SECONDS, help="How long the old key goes on working.")
    ] = 0,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Replace a key by a new one with the same settings. The new one is shown this once."""
    settings = load_config(config, data_dir)
    secret = compose(settings.keys.prefix, token_bytes(ENTROPY_BYTES))

    async def work(connection: AsyncConnection) -> dict[str, Any]:
        fingerprint = api_keys.fingerprint(secret, settings.secrets.peppers)
        grace = timedelta(seconds=grace_seconds)
        old, new = await api_keys.rotate(connection, key, fingerprint=fingerprint, now=now(), grace=grace)
        await _record(connection, "keys.rotate", old)
        await _record(connection, "keys.create", new)
        return {**_key_fields(new), "key": secret.secret}

    print_object(run_in_transaction(settings, work), as_json=as_json)


def _key_fields(key: ApiKey) -> dict[str, Any]:
    return {
        "id": str(key.id),
        "user_id": str(key.user_id),
        "name": key.name,
        "prefix": key.prefix,
        "last4": key.last4,
        "status": key.status_at(now()),
        "expires_at": None if key.expires_at is None else key.expires_at.isoformat(),
        "created_at": key.created_at.isoformat(),
    }


async def _record(connection: AsyncConnection, action: str, key: ApiKey) -> None:
    await audit_log.append(
        connection, actor=ACTOR, action=action, entity="key", entity_id=str(key.id), after=_key_fields(key)
    )
