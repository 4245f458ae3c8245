"""Databases of a server that others use too, emptied of connections and dropped by a role that is no superuser."""

from __future__ import annotations

import asyncpg


async def end_connections(connection: asyncpg.Connection, name: str) -> None:
    """Ends the connections to a database and lets nobody connect.

    PostgreSQL itself ends an autovacuum worker there; `WITH (FORCE)` fails where the role may not.
    """
    await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    clients = "FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'"
    await connection.fetch(f"SELECT pg_terminate_backend(pid, 5000) {clients}", name)


async def drop(connection: asyncpg.Connection, name: str) -> None:
    """Drops a database, whoever is connected to it."""
    await end_connections(connection, name)
    await connection.execute(f"DROP DATABASE {name}")
