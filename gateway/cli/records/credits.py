"""`gateway credits grant`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.cli.arguments import line
from gateway.cli.console import AsJson, ConfigFile, DataDir, load_config, print_object
from gateway.cli.transactions import ACTOR, find_user, run_in_transaction
from gateway.ledger.accounts import users
from gateway.ledger.audit import audit_log
from gateway.ledger.credits import grants
from policies.credits.allowances import MAX_PERIOD_CREDITS

app = typer.Typer(help="Credits.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keeps typer from making the only command the group itself."""


@app.command()
def grant(
    user: Annotated[str, typer.Option(help="The user's id or e-mail address.")],
    amount: Annotated[int, typer.Option(min=1, max=MAX_PERIOD_CREDITS, help="Whole credits.")],
    reason: Annotated[str, typer.Option(parser=line, metavar="<str>", help="Stands in the ledger for ever.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Give an account credits."""

    async def work(connection: AsyncConnection) -> dict[str, Any]:
        owner = await users.get_for_update(connection, (await find_user(connection, user)).id)
        entry = await grants.grant(connection, owner.id, amount=amount, source="admin", reason=reason, actor=ACTOR)
        granted = {"user_id": str(owner.id), "amount": amount, "balance": entry.balance_after, "reason": reason}
        await audit_log.append(
            connection,
            actor=ACTOR,
            action="credits.grant",
            entity="user",
            entity_id=str(owner.id),
            after=granted,
            reason=reason,
        )
        return granted

    print_object(run_in_transaction(load_config(config, data_dir), work), as_json=as_json)
