"""Sources of each kind that is at hand, and databases to import them into."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from gateway.embedded.stores import Stores
from tests.support import databases

NewSource = Callable[[str], Awaitable[str]]
# An account of MySQL or MariaDB that may create databases: mysql://user:password@127.0.0.1:3306
MYSQL_URL = os.environ.get("GATEWAY_TEST_MYSQL_URL")


@pytest.fixture
def new_source(stores: Stores, tmp_path: Path) -> NewSource:
    """Makes an empty database of this kind; gives its URL."""

    async def create(kind: str) -> str:
        name = f"source_{uuid4().hex}"
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / name}.db"
        if kind == "postgresql":
            return await databases.create(stores.database_url)
        if MYSQL_URL is None:
            pytest.skip("no MySQL at hand: GATEWAY_TEST_MYSQL_URL is not set")
        engine = sa.create_engine(sa.make_url(MYSQL_URL).set(drivername="mysql+pymysql"))
        with engine.begin() as opened:
            opened.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        engine.dispose()
        return f"{MYSQL_URL.rstrip('/')}/{name}"

    return create
