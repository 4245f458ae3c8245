"""The role of the gateway in its embedded PostgreSQL: it owns its database, and is no superuser.

A superuser runs programs and reads every file of the machine that its server may, so one SQL injection would be all.
initdb needs a superuser; once that one has made the role and the database, nobody can log in as it. Clusters of
releases before 0.2.0 have `gateway` as this superuser: it is renamed, and what it owned is given to the new role.
"""

from __future__ import annotations

import secrets

import asyncpg

from gateway.embedded.endpoints import Endpoint

ROLE, SUPERUSER = "gateway", "gateway_superuser"
_HELPER = "gateway_rename"  # a role cannot rename itself

# Sequences of columns, indexes and row types go with their tables.
_OWNED = """
    SELECT format('ALTER %s %I.%I OWNER TO gateway',
                  CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                                 ELSE 'TABLE' END, n.nspname, c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass
                          AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
    UNION ALL
    SELECT format('ALTER ROUTINE %I.%I(%s) OWNER TO gateway',
                  n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT format('ALTER TYPE %I.%I OWNER TO gateway', n.nspname, t.typname)
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
     WHERE t.typtype IN ('e', 'd') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT format('ALTER SCHEMA %I OWNER TO gateway', nspname) FROM pg_namespace
     WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', 'public')
"""


async def answers(endpoint: Endpoint) -> bool:
    """Whether the server decides about logins, whichever way."""
    try:
        connection = await connect(endpoint, "postgres")
    except asyncpg.InvalidPasswordError:
        return True
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


async def connect(endpoint: Endpoint, database: str, *, user: str = ROLE, password: str = "") -> asyncpg.Connection:
    return await asyncpg.connect(
        host="127.0.0.1",
        port=endpoint.port,
        user=user,
        password=password or endpoint.password,
        database=database,
        timeout=5,
        ssl=False,
    )


async def prepare(endpoint: Endpoint) -> None:
    """Makes the role and its database, unless they are there. Each step may be repeated after a crash."""
    if await _is_ready(endpoint):
        return
    if await _is_former_superuser(endpoint):
        await _rename_superuser(endpoint)
    superuser = await connect(endpoint, "postgres", user=SUPERUSER)
    try:
        await superuser.execute(f"DROP ROLE IF EXISTS {_HELPER}")
        await _create_role(superuser, endpoint.password)
        if not await superuser.fetchval("SELECT true FROM pg_database WHERE datname = 'gateway'"):
            await superuser.execute(f"CREATE DATABASE gateway OWNER {ROLE}")
        await superuser.execute(f"ALTER DATABASE gateway OWNER TO {ROLE}")
        await _give_all(endpoint)
        await superuser.execute(f"ALTER ROLE {SUPERUSER} PASSWORD NULL")
    finally:
        await superuser.close()


async def _is_ready(endpoint: Endpoint) -> bool:
    """Whether the role is as it is to be, which it is once the superuser has no password."""
    try:
        connection = await connect(endpoint, "gateway")
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidCatalogNameError):
        return False
    try:
        if await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
            return False
    finally:
        await connection.close()
    try:
        connection = await connect(endpoint, "postgres", user=SUPERUSER)
    except asyncpg.InvalidPasswordError:
        return True
    await connection.close()
    return False


async def _is_former_superuser(endpoint: Endpoint) -> bool:
    try:
        connection = await connect(endpoint, "postgres")
    except asyncpg.InvalidPasswordError:
        return False
    try:
        return bool(await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"))
    finally:
        await connection.close()


async def _rename_superuser(endpoint: Endpoint) -> None:
    """Its password stays, and all that it owns."""
    password = secrets.token_hex(24)
    former = await connect(endpoint, "postgres")
    try:
        await former.execute(f"DROP ROLE IF EXISTS {_HELPER}")
        await former.execute(f"CREATE ROLE {_HELPER} SUPERUSER LOGIN PASSWORD '{password}'")
    finally:
        await former.close()
    helper = await connect(endpoint, "postgres", user=_HELPER, password=password)
    try:
        await helper.execute(f"ALTER ROLE {ROLE} RENAME TO {SUPERUSER}")
    finally:
        await helper.close()


async def _create_role(superuser: asyncpg.Connection, password: str) -> None:
    """CREATEDB, so that an operator can restore a backup beside the database."""
    if not await superuser.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", ROLE):
        await superuser.execute(f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{password}'")


async def _give_all(endpoint: Endpoint) -> None:
    owner = await connect(endpoint, "gateway", user=SUPERUSER)
    try:
        async with owner.transaction():
            for statement in await owner.fetch(_OWNED):
                await owner.execute(statement[0])
    finally:
        await owner.close()
