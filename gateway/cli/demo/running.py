"""`gateway demo`: everything on one machine, with an upstream that works and an account that may call it."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated

import typer

from gateway import logs
from gateway.cli.console import AsJson, DataDir, load_config
from gateway.cli.demo.account import DemoAccount, ensure_account
from gateway.cli.demo.customers import DEMO_EMAIL
from gateway.cli.installation import apply_reload, connect, prepare
from gateway.config import Config
from gateway.demo.store import STORE_ID, variant_id
from gateway.embedded.locks import serve_lock
from gateway.ledger.catalogue import plans
from gateway.runtime.serving import EVERYTHING, Role, catch_stop_signals, keep_off, serving
from gateway.runtime.sockets import bind, url_of
from gateway.runtime.stores import StoreUrls, open_store_servers
from policies.billing.money import to_minor
from policies.billing.providers import PROVIDERS

app = typer.Typer()
_SHOP = PROVIDERS["lemon_squeezy"]
_CURRENCY = "USD"
_TRY = """
The gateway is serving. Look at it:

  {public_url}/portal     as the customer {email} with the password {password}
  {admin_url}/console    as an operator with the token {admin_token}

Try:

  curl {public_url}/v1/analyze -H 'X-API-Key: {api_key}' -d 'the quick brown fox and the lazy dog'

  curl {public_url}/v1/generate -H 'X-API-Key: {api_key}' -d '{{"products": ["lamp", "chair"]}}'

  curl -N {public_url}/v1/chat/completions -H 'X-API-Key: {api_key}' -d '{{"model": "demo", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'

What they used: {admin_url}/admin/v1/usage with 'Authorization: Bearer {admin_token}'; all of the admin API: {admin_url}/docs

The command `gateway` is {command} here. In another terminal, in this directory:

  {command} keys list{data_dir_option}
"""  # noqa: E501 - a line each, to be copied whole


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="Public port; 0 picks a free one.")] = 8080,
    admin_port: Annotated[int, typer.Option(help="Admin port; 0 picks a free one.")] = 8081,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    month: Annotated[
        bool | None, typer.Option(help="Seed a month of customers and usage, once; by default unless --json.")
    ] = None,
) -> None:
    """Serve with the bundled upstream and a demo account, and print sign-ins and calls to try."""
    overrides = {"server.public": f"127.0.0.1:{port}", "server.admin": f"127.0.0.1:{admin_port}"}
    path = Path(str(files("gateway.demo") / "gateway.yaml"))
    with_month = not as_json if month is None else month

    def read() -> Config:
        return load_config(path, data_dir, overrides=overrides, roles=EVERYTHING)

    asyncio.run(_run(read, as_json=as_json, with_month=with_month))


async def _run(read_config: Callable[[], Config], *, as_json: bool, with_month: bool) -> None:
    """Serves until a signal; with `as_json` it prints one line of JSON, with every URL and secret.

    `with_month` seeds a month of customers and their usage, once.
    """
    config = read_config()
    logs.configure(role="supervisor", level=config.log.level_number, form=config.log.format)
    keep_off(config.server.worker_cores)
    async with AsyncExitStack() as stack:
        stack.enter_context(serve_lock(config.data_dir))
        stores = await stack.enter_async_context(open_store_servers(config, must_own=True))
        await prepare(config, stores)
        is_alone = all(each.api_key is None for each in config.secrets.providers.values())
        has_shop = is_alone and not as_json and config.server.public.port != 0
        account = await ensure_account(config, stores, with_month=with_month)
        listening = stack.enter_context(bind("demo upstream", "127.0.0.1", 0)[0])
        upstream_url = url_of(listening)
        settings = {f"GATEWAY_UPSTREAMS__{each.name.upper()}__TARGETS": upstream_url for each in config.upstreams}
        if has_shop:
            settings |= await open_shop(config, stores, upstream_url=upstream_url)
        if config.mail.smtp is None:
            settings["GATEWAY_AUTH__REQUIRE_VERIFIED"] = "false"  # nobody reads the log for a link
        serve = serving(
            config,
            EVERYTHING,
            store_urls=stores,
            reload_config=read_config,
            apply=partial(apply_reload, stores),
            settings=settings,
            upstream=listening,
        )
        stop = catch_stop_signals()
        urls = await stack.enter_async_context(serve)
        listening.close()  # the child process has its own copy
        facts = {
            "public_url": urls[Role.PROXY],
            "admin_url": urls[Role.ADMIN],
            "upstream_url": upstream_url,
            "api_key": account.key,
            "admin_token": config.secrets.admin_token,
            "user_id": str(account.user_id),
            "database_url": stores.database_url,
            "redis_url": stores.redis_url,
        }
        typer.echo(json.dumps(facts) if as_json else _instructions(config, facts, account))
        await stop.wait()


async def open_shop(config: Config, stores: StoreUrls, *, upstream_url: str) -> dict[str, str]:
    """The settings by which the gateway sells at the shop. Plans that have a provider's price keep it."""
    async with connect(config, stores) as database, database.transaction() as connection:
        for number, plan in enumerate(await plans.list_plans(connection), 1):
            terms = plan.terms
            if terms.provider_ids or terms.price <= 0 or terms.currency != _CURRENCY:
                continue
            variant = variant_id(number, cents=to_minor(terms.price, _CURRENCY))
            sold = replace(terms, provider_ids={_SHOP.price_field: variant})
            await plans.change(connection, plan.id, sold)
    portal = f"http://127.0.0.1:{config.server.public.port}/portal"
    section = f"GATEWAY_BILLING__{_SHOP.name.upper()}__"
    return {
        _SHOP.api_key_variable: token_urlsafe(16),
        f"{section}API_BASE": f"{upstream_url}/store",
        f"{section}STORE_ID": STORE_ID,
        f"{section}TEST_MODE": "true",
        "GATEWAY_BILLING__SUCCESS_URL": config.billing.success_url or config.portal.link("/paid") or f"{portal}/paid",
        "GATEWAY_BILLING__CANCEL_URL": config.billing.cancel_url or f"{portal}/plan",
        # Nothing announces what was bought but the buyer who returns.
        "GATEWAY_BILLING__POLL_INTERVAL": "1m",
    }


def _instructions(config: Config, facts: Mapping[str, str], account: DemoAccount) -> str:
    is_default = config.data_dir == Path(".gateway").absolute()
    option = "" if is_default else f" --data-dir {shlex.quote(str(config.data_dir))}"
    return _TRY.format(**facts, email=DEMO_EMAIL, password=account.password, command=_command(), data_dir_option=option)


def _command() -> str:
    """What a shell runs this program by: the script of a virtual environment is seldom on PATH."""
    script = Path(sys.argv[0])
    if script.name != "gateway":
        return f"{os.path.relpath(sys.executable)} -m gateway"
    return script.name if shutil.which(script.name) == str(script.absolute()) else os.path.relpath(script)
