"""Databases of a server that others use too, made and dropped by a role that is no superuser."""

from __future__ import annotations

from uuid import uuid4

import asyncpg

EMPTY = "template0"
BOUNDS = {"idle_in_transaction_session_timeout": "300ms", "transaction_timeout": "1s"}


async def create(server_url: str, template: str = EMPTY) -> str:
    """Makes a database; gives its URL. `server_url` is that of any database of the server."""
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(server_url)
    try:
        await copy(connection, template, name)
    finally:
        await connection.close()
    return f"{server_url.rpartition('/')[0]}/{name}"


async def copy(connection: asyncpg.Connection, template: str, name: str) -> None:
    """Copies files instead of logging their pages, at half the cost."""
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")


async def bound_transactions(url: str) -> None:
    """What an operator may do: bounds all transactions of later connections, and what they wait between statements."""
    name = url.rpartition("/")[2]
    connection = await asyncpg.connect(url)
    try:
        known = await connection.fetch("SELECT name FROM pg_settings WHERE name = ANY ($1)", list(BOUNDS))
        for bound in (row["name"] for row in known):
            await connection.execute(f"ALTER DATABASE {name} SET {bound} = '{BOUNDS[bound]}'")
    finally:
        await connection.close()


async def remove(url: str) -> None:
    """Drops the database of a URL."""
    server, _, name = url.rpartition("/")
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await drop(connection, name)
    finally:
        await connection.close()


async def drop(connection: asyncpg.Connection, name: str) -> None:
    """Drops a database, whoever is connected to it."""
    await end_connections(connection, name)
    await connection.execute(f"DROP DATABASE {name}")


async def end_connections(connection: asyncpg.Connection, name: str) -> None:
    """Ends the connections to a database and lets nobody connect.

    PostgreSQL itself ends an autovacuum worker there; `WITH (FORCE)` fails where the role may not.
    """
    await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    clients = "FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'"
    await connection.fetch(f"SELECT pg_terminate_backend(pid, 5000) {clients}", name)
