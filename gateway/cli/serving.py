"""`gateway serve`, `proxy`, `admin`, `worker` and `check`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from gateway import logs
from gateway.cli.console import AsJson, ConfigFile, DataDir, load_config
from gateway.cli.forked import ForkedWork, Work, forked
from gateway.config import Config, describe
from gateway.config.secrets import ADMIN_TOKEN
from gateway.embedded.locks import serve_lock
from gateway.runtime.serving import EVERYTHING, HEALTH, Role, catch_stop_signals, keep_off, serving
from gateway.runtime.stores import StoreUrls, open_store_servers

app = typer.Typer()
CheckedRole = Annotated[
    Literal["proxy", "admin", "worker"] | None,
    typer.Option(
        "--role",
        help="Ask for the secrets and extras of this role alone.",
    ),
]


@app.command()
def serve(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Serve everything: public listener, admin listener, background workers, and embedded stores if so configured."""
    _run(config, data_dir, EVERYTHING, as_json=as_json)


@app.command()
def proxy(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Serve the public listener alone, for scaling out."""
    _run(config, data_dir, (Role.PROXY,), as_json=as_json)


@app.command()
def admin(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Serve the admin listener alone."""
    _run(config, data_dir, (Role.ADMIN,), as_json=as_json)


@app.command()
def worker(config: ConfigFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Run the background workers alone."""
    _run(config, data_dir, (Role.WORKER,), as_json=as_json)


@app.command()
def check(config: ConfigFile = None, role: CheckedRole = None) -> None:
    """Validate the configuration without starting anything."""
    typer.echo(describe(load_config(config, persist_secrets=False, roles=EVERYTHING if role is None else (role,))))


def _run(config: Path | None, data_dir: Path | None, roles: Sequence[Role], *, as_json: bool) -> None:
    def read() -> Config:
        return load_config(config, data_dir, roles=roles)

    loaded = read()
    logs.configure(role="supervisor", level=loaded.log.level_number, form=loaded.log.format)
    keep_off(loaded.server.worker_cores)
    with forked(partial(_load_preparation, loaded)) as preparation:
        asyncio.run(_serve(read, roles, config=loaded, preparation=preparation, as_json=as_json))


def _load_preparation(config: Config) -> Work:
    from gateway.cli.installation import prepare_stores  # here, since the supervisor would hold what it imports

    return partial(prepare_stores, config)


async def _apply_reload(stores: StoreUrls, config: Config) -> None:
    apply = await asyncio.to_thread(_load_reload)  # meanwhile probes are answered
    await apply(stores, config)


def _load_reload() -> Callable[[StoreUrls, Config], Awaitable[None]]:
    from gateway.cli.installation import apply_reload  # as above: until the first reload

    return apply_reload


async def _serve(
    read: Callable[[], Config], roles: Sequence[Role], *, config: Config, preparation: ForkedWork, as_json: bool
) -> None:
    is_whole = roles == EVERYTHING  # a single role joins the stores of another process
    async with AsyncExitStack() as stack:
        if is_whole:
            stack.enter_context(serve_lock(config.data_dir))
        stores = await stack.enter_async_context(open_store_servers(config, must_own=is_whole))
        await preparation.run(stores)
        apply = partial(_apply_reload, stores)
        serve = serving(config, roles, store_urls=stores, reload_config=read, apply=apply)
        stop = catch_stop_signals()
        urls = await stack.enter_async_context(serve)
        _print_urls(config, urls, stores, as_json=as_json)
        await stop.wait()


def _print_urls(config: Config, urls: Mapping[str, str], stores: StoreUrls, *, as_json: bool) -> None:
    if as_json:
        installation = {
            "public_url": urls.get(Role.PROXY),
            "admin_url": urls.get(Role.ADMIN),
            "health_url": urls[HEALTH],
            "admin_token": config.secrets.required.get(ADMIN_TOKEN),
            "database_url": stores.database_url,
            "redis_url": stores.redis_url,
        }
        typer.echo(json.dumps(installation))
        return
    for role, url in urls.items():
        typer.echo(f"{role:<8} {url}")
