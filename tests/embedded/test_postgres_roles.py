"""In SQL the gateway is no superuser: it owns its database, also in data directories of the release before."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from gateway.embedded import postgres_roles
from gateway.embedded.endpoints import Endpoint, choose
from gateway.embedded.errors import StoreFailedError
from gateway.embedded.postgres import Postgres
from gateway.embedded.stores import Stores

FORMER = """
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE kept (id serial PRIMARY KEY, mood mood, created date) ;
    CREATE TABLE parted (id bigint GENERATED ALWAYS AS IDENTITY, day date) PARTITION BY RANGE (day);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE SEQUENCE alone;
    CREATE VIEW seen AS SELECT * FROM kept;
    CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
    INSERT INTO kept (mood) VALUES ('good');
    INSERT INTO parted (day) VALUES ('2026-01-05');
"""
CHANGES = """
    ALTER TABLE kept ADD COLUMN more int;
    ALTER TYPE mood ADD VALUE 'odd';
    INSERT INTO kept (mood) VALUES ('bad');
    CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
    DROP TABLE parted_1;
    ALTER SEQUENCE alone RESTART;
    CREATE OR REPLACE VIEW seen AS SELECT * FROM kept;
    CREATE OR REPLACE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 2';
    CREATE TABLE made (id int)
"""


async def assert_is_no_superuser(stores: Stores) -> None:
    connection = await asyncpg.connect(stores.database_url)
    try:
        assert await connection.fetchrow(
            "SELECT rolname, rolsuper, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles"
            " WHERE rolname = current_user"
        ) == ("gateway", False, False, False, False)
        for forbidden in (
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "CREATE TABLE stolen (line text); COPY stolen FROM '/etc/passwd'",
            "SELECT pg_read_file('/etc/passwd')",
            "ALTER SYSTEM SET archive_command = 'true'",
            "CREATE ROLE other SUPERUSER",
            "ALTER ROLE gateway SUPERUSER",
            f"SET ROLE {postgres_roles.SUPERUSER}",
            "SET SESSION AUTHORIZATION gateway_superuser",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
    finally:
        await connection.close()
    superuser = stores.database_url.replace("//gateway:", f"//{postgres_roles.SUPERUSER}:")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(superuser)


async def test_role_of_the_gateway_is_no_superuser(tmp_path: Path) -> None:
    for _ in range(2):
        async with await Stores.open(tmp_path, durable=False) as stores:
            await assert_is_no_superuser(stores)


async def _former(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data directory as the release before has left it, with its role as superuser."""

    async def prepare(endpoint: Endpoint) -> None:
        connection = await postgres_roles.connect(endpoint, "postgres")
        await connection.execute("CREATE DATABASE gateway")
        await connection.close()
        connection = await postgres_roles.connect(endpoint, "gateway")
        await connection.execute(FORMER)
        await connection.close()

    with monkeypatch.context() as patch:
        patch.setattr(postgres_roles, "SUPERUSER", "gateway")
        patch.setattr(postgres_roles, "prepare", prepare)
        async with await Stores.open(folder, durable=False):
            pass


async def test_data_directory_of_the_release_before_gets_its_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _former(tmp_path, monkeypatch)
    async with await Stores.open(tmp_path, durable=False) as stores:
        await assert_is_no_superuser(stores)
        connection = await asyncpg.connect(stores.database_url)
        await connection.execute(CHANGES)
        assert await connection.fetchval("SELECT count(*) FROM kept") == 2
        assert await connection.fetchval("SELECT one()") == 2
        await connection.close()
    async with await Stores.open(tmp_path, durable=False) as stores:
        await assert_is_no_superuser(stores)


@pytest.mark.parametrize("step", ["_rename_superuser", "_create_role", "_give_all"])
async def test_crash_while_the_role_is_made_is_repaired_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await _former(tmp_path, monkeypatch)
    done = getattr(postgres_roles, step)

    async def crash(*arguments: object) -> None:
        await done(*arguments)
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(postgres_roles, step, crash)
        with pytest.raises(RuntimeError, match="killed here"):
            await Stores.open(tmp_path, durable=False)
    async with await Stores.open(tmp_path, durable=False) as stores:
        await assert_is_no_superuser(stores)


async def test_cluster_with_another_password_is_refused_in_one_line(tmp_path: Path) -> None:
    server = Postgres(tmp_path, durable=False)
    chosen = choose(None)
    await server.start(chosen.postgres)
    await server.stop()
    wrong = Endpoint(port=chosen.postgres.port, password="wrong")
    with pytest.raises(StoreFailedError, match="cannot be prepared"):
        await server.start(wrong)
    await server.stop()
