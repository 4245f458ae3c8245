"""Two versions of the gateway serve side by side while one replaces the other, and no call fails."""

from __future__ import annotations

import asyncio
import io
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from gateway.config import load
from gateway.ledger.db import schema
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.chaos.rolling import DOCUMENT, ROOT, Load, Process, called, free_ports, run, serving
from tests.guarantees.simulation.nginx import NGINX, nginx
from tests.guarantees.simulation.served_gateway import SECRETS, Served
from tests.proxy import upstream as upstreams
from tests.support.sampling import IS_FULL

# Versions with the schemas 0016, 0018, 0019 and 0020, and whether their start takes today's.
OLDER = {"a26ae0e": False, "b1834e1": False, "33d0ae0": False, "c8c8bb0": True}
NEXT_MIGRATION = '''"""What the next release may add: a column, and a table."""

from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None
serves_from = "{before}"
is_needed = True


def upgrade() -> None:
    op.execute("ALTER TABLE usage_tracking ADD COLUMN carbon_grams integer")
    op.execute("ALTER TABLE users ADD COLUMN nickname text DEFAULT 'none'")
    op.execute("CREATE TABLE nicknames (id bigint PRIMARY KEY)")


def downgrade() -> None:
    raise NotImplementedError
'''
MIXED_SECONDS = 3.0  # of calls, with one process of each version
GRANTED = 1_000_000
CLIENTS = 40
CALLS_PER_SECOND = 100  # for minutes, besides the processes that start

pytestmark = [
    pytest.mark.skipif(not IS_FULL, reason="replaces whole versions; GATEWAY_TEST_SCALE=full"),
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]


def version_at(commit: str, folder: Path) -> Path:
    """The code as it was. Skips where there is no history."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"the history has no {commit}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def next_version(folder: Path) -> Path:
    """Today's code with one more migration."""
    folder.mkdir()
    for each in ("gateway", "policies", "migrations"):
        shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
    before = schema.head()
    revision = f"{int(before) + 1:04d}"
    text = NEXT_MIGRATION.format(revision=revision, before=before)
    (folder / "migrations" / "versions" / f"{revision}_next.py").write_text(text)
    return folder


@pytest.mark.parametrize(("commit", "goes_back"), OLDER.items())
async def test_upgrade_from_an_older_version_fails_no_call(
    tmp_path: Path, empty_url: str, own_redis_url: str, commit: str, goes_back: bool
) -> None:
    old = version_at(commit, tmp_path / "old")
    await _replace(tmp_path, empty_url, own_redis_url, versions=[old, ROOT, *([old, ROOT] if goes_back else [])])


async def test_next_version_and_back_again_fails_no_call(tmp_path: Path, empty_url: str, own_redis_url: str) -> None:
    newer = next_version(tmp_path / "newer")
    await _replace(tmp_path, empty_url, own_redis_url, versions=[ROOT, newer, ROOT, newer])


async def _replace(folder: Path, database_url: str, redis: str, *, versions: list[Path]) -> None:
    """Every role goes from version to version under load; the schema is brought to the second one's, and stays."""
    first, *later = versions
    *ports, kept, new, admin = free_ports(5)
    places = {
        **SECRETS,
        "GATEWAY_DATABASE__URL": database_url,
        "GATEWAY_REDIS__URL": redis,
        "GATEWAY_DATA_DIR": str(folder / "data"),
        "GATEWAY_SERVER__ADMIN": f"127.0.0.1:{admin}",
    }

    async def command(code: Path, *words: str) -> dict[str, str]:
        return await run(*words, folder=folder, places=places, code=code)

    async with upstreams.running() as upstream:
        (folder / "gateway.yaml").write_text(DOCUMENT.format(upstream=upstream.url))
        await command(first, "migrate", "up")
        user = (await command(first, "users", "create", "--email", "ada@example.com", "--plan", "open", "--json"))["id"]
        key = (await command(first, "keys", "create", "--user", user, "--json"))["key"]
        grant = ("credits", "grant", "--user", user, "--amount", str(GRANTED), "--reason", "test", "--json")
        await command(first, *grant)
        load_ = Load(key, kept, new, clients=CLIENTS, calls_per_second=CALLS_PER_SECOND)
        own = [{**places, "GATEWAY_SERVER__PUBLIC": f"127.0.0.1:{each}"} for each in ports]
        proxies = [Process("proxy", folder, each, first, tries=3) for each in own]
        processes = [*(Process(role, folder, places, first, tries=3) for role in ("worker", "admin")), *proxies]
        async with serving(processes), nginx(folder / "nginx", gateways=ports, kept=kept, new=new) as front:
            async with called(load_):
                await command(versions[1], "migrate", "up")
                for version in later:
                    for process in processes:
                        others = [port for port, each in zip(ports, proxies, strict=True) if each is not process]
                        if not _drains(process.code):
                            await front.lead_to(others)
                        await process.replace(version)
                        await front.lead_to(ports)
                        if process is proxies[0]:
                            await asyncio.sleep(MIXED_SECONDS)
                    await command(version, *grant)
            said = front.errors.read_text()
        config, served = load(folder / "gateway.yaml", places), proxies[0].process
        assert served is not None
        rows = await Served(served, "", "", config, front.errors, key).rows()
        books = await command(later[-1], "reconcile", "--json")
    calls, names = load_.answers.total(), " -> ".join(each.name for each in versions)
    measured.append(f"versions {names}: {dict(load_.answers)}, reconciled {books}")

    assert load_.answers.keys() == {"GET 200", "POST 200"}, said
    assert Counter((outcome, charged) for _, outcome, charged in rows) == {("succeeded", 1): calls}
    assert await _balance(database_url) == GRANTED * len(versions) - calls


def _drains(code: Path) -> bool:
    """Whether a stopping proxy of that version loses no call; one that does is taken out of nginx before."""
    return (code / "gateway" / "runtime" / "draining.py").exists()


async def _balance(database_url: str) -> int:
    connection = await asyncpg.connect(database_url)
    found: int = await connection.fetchval("SELECT current_credits FROM user_credits")
    await connection.close()
    return found
