"""`gateway users create`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli.arguments import line
from gateway.cli.console import AsJson, ConfigFile, DataDir, load_config, print_object
from gateway.cli.transactions import ACTOR, find_plan, run_in_transaction
from gateway.clock import now
from gateway.email_addresses import InvalidEmail, normalised
from gateway.ledger.accounts import users
from gateway.ledger.audit import audit_log
from gateway.ledger.subscriptions import lifecycle

app = typer.Typer(help="Accounts.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keeps typer from making the only command the group itself."""


@app.command()
def create(
    email: Annotated[str, typer.Option(help="Unique, whatever its case.")],
    name: Annotated[str | None, typer.Option(parser=line, metavar="<str>", help="What to call them.")] = None,
    plan: Annotated[str | None, typer.Option(help="Start a subscription to this plan, by name or id.")] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Create a user. Without a plan the account cannot call anything yet."""
    try:
        address = normalised(email)
    except InvalidEmail as error:
        raise typer.BadParameter(str(error), param_hint="--email") from error

    async def work(connection: AsyncConnection) -> dict[str, Any]:
        user = await users.create(connection, address, name=name)
        subscription = None
        if plan is not None:
            chosen = await find_plan(connection, plan)
            subscription = await lifecycle.start(connection, user.id, plan_id=chosen.id, now=now(), actor=ACTOR)
        created = {
            "id": str(user.id),
            "email": user.email,
            "name": user.name,
            "status": str(user.status),
            "plan": None if subscription is None else subscription.plan_id,
            "subscription_id": None if subscription is None else str(subscription.id),
        }
        await audit_log.append(
            connection, actor=ACTOR, action="users.create", entity="user", entity_id=str(user.id), after=created
        )
        return created

    print_object(run_in_transaction(load_config(config, data_dir), work), as_json=as_json)
