"""Guarantees of the embedded stores: data survives, one owner at a time, nothing outlives its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from gateway.embedded import launch
from gateway.embedded.binaries import find_postgres
from gateway.embedded.endpoints import choose, load, save
from gateway.embedded.errors import DataDirBusyError, DataDirUnusableError, EmbeddedUnavailableError, StoreFailedError
from gateway.embedded.stores import Stores

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534

# Another process on the same data directory: reports its view, then stays until its standard input ends.
OTHER_PROCESS = """
    import asyncio, sys
    from pathlib import Path
    from gateway.embedded.stores import Stores

    async def main():
        async with await Stores.open(Path(sys.argv[1]), durable=False) as stores:
            print(stores.is_owner, flush=True)
            await asyncio.to_thread(sys.stdin.read)

    asyncio.run(main())
"""


@asynccontextmanager
async def other_process(
    data_dir: Path, *, python: str = sys.executable, uid: int | None = None
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        python,
        *("-c", textwrap.dedent(OTHER_PROCESS), str(data_dir)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": sysconfig.get_path("platlib"), "PYTHONDONTWRITEBYTECODE": "1"},
        user=uid,
        group=uid,
        extra_groups=None if uid is None else (),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.stdin.close()
        await process.wait()


def python_for_everyone() -> str | None:
    """An interpreter of this version, outside root's home, by which an ordinary user can run us."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [candidate, "-c", f"open({str(REPOSITORY / 'pyproject.toml')!r})"]
        with suppress(OSError):
            if (
                subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=(), cwd="/", check=False).returncode
                == 0
            ):
                return candidate
    return None


def is_program_for_everyone() -> bool:
    """Whether an ordinary user may run the PostgreSQL that is found here."""
    command = [str(find_postgres(None).postgres), "--version"]
    with suppress(PermissionError):
        done = subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=(), cwd="/", check=False)
        return done.returncode == 0
    return False


async def write(stores: Stores, value: str) -> None:
    connection = await asyncpg.connect(stores.database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
    await connection.execute("INSERT INTO kept VALUES ($1)", value)
    await connection.close()
    async with Redis.from_url(stores.redis_url) as client:
        await client.rpush("kept", value)


async def read(stores: Stores) -> tuple[list[str], list[str]]:
    connection = await asyncpg.connect(stores.database_url)
    rows = [row["value"] for row in await connection.fetch("SELECT value FROM kept")]
    await connection.close()
    async with Redis.from_url(stores.redis_url, decode_responses=True) as client:
        return rows, [str(entry) for entry in await client.lrange("kept", 0, -1)]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory with a space in its name that other users may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="gateway stores ") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "data dir"
        path.mkdir()
        yield path


async def test_stores_keep_data_and_address(data_dir: Path) -> None:
    async with await Stores.open(data_dir) as first:
        await write(first, "a")
    async with await Stores.open(data_dir) as second:
        assert await read(second) == (["a"], ["a"])
        assert (second.database_url, second.redis_url) == (first.database_url, first.redis_url)


async def test_stores_replace_a_taken_port(data_dir: Path) -> None:
    async with await Stores.open(data_dir, durable=False) as first:
        await write(first, "a")
    remembered = load(data_dir / "stores.json")
    assert remembered is not None
    async with (
        await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", remembered.postgres.port),
        await Stores.open(data_dir, durable=False) as second,
    ):
        assert second.database_url != first.database_url
        assert await read(second) == (["a"], ["a"])


async def test_stores_require_passwords_and_keep_them_private(data_dir: Path) -> None:
    async with await Stores.open(data_dir, durable=False) as stores:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(stores.database_url, password="guess")
        password = stores.redis_url.split(":")[2].split("@")[0]
        async with Redis.from_url(stores.redis_url.replace(password, "guess")) as client:
            with pytest.raises(AuthenticationError, match=r"invalid username-password"):
                await client.ping()
        assert stat.S_IMODE((data_dir / "stores.json").stat().st_mode) == 0o600
        shown = _command_lines()
        assert shown
        assert not [line for line in shown if password in line]


def _command_lines() -> list[str]:
    """Of all processes below this one; backends of PostgreSQL end while they are listed."""
    shown = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            shown.append(" ".join(process.cmdline()))
    return shown


async def test_stores_are_shared_with_a_second_process(data_dir: Path) -> None:
    async with await Stores.open(data_dir, durable=False) as stores:
        await write(stores, "a")
        async with other_process(data_dir) as (_process, is_owner):
            assert is_owner == "False"
        assert await read(stores) == (["a"], ["a"])


async def test_stores_stop_after_their_guests_have_left(data_dir: Path) -> None:
    async with other_process(data_dir) as (owner, _):
        async with await Stores.open(data_dir) as guest:
            assert owner.stdin is not None
            owner.stdin.close()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(owner.wait(), 0.5)
            await write(guest, "a")
        assert await owner.wait() == 0


async def test_stores_serve_commands_that_start_together(data_dir: Path) -> None:
    async def command(name: str) -> None:
        async with other_process(data_dir) as (process, is_owner):
            assert is_owner in {"True", "False"}, name
            assert process.stdin is not None
            process.stdin.close()
            assert await process.wait() == 0

    await asyncio.gather(*(command(name) for name in "abcd"))


async def test_stores_wait_for_the_present_owner(data_dir: Path) -> None:
    async with other_process(data_dir) as (process, is_owner):
        assert is_owner == "True"
        opening = asyncio.create_task(Stores.open(data_dir, must_own=True, durable=False))
        assert not (await asyncio.wait([opening], timeout=0.2))[0]
        assert process.stdin is not None
        process.stdin.close()
        async with await opening as stores:
            assert stores.is_owner


async def test_stores_name_the_owner_that_holds_them(data_dir: Path) -> None:
    async with await Stores.open(data_dir, durable=False):
        with pytest.raises(DataDirBusyError, match=f"held by process {os.getpid()}"):
            await Stores.open(data_dir, must_own=True, patience_seconds=0.1)


async def test_stores_read_a_torn_append_only_file_up_to_the_tear(data_dir: Path) -> None:
    async with await Stores.open(data_dir, durable=False) as stores:
        await write(stores, "a")
    (increment,) = (data_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    with increment.open("ab") as file:
        file.write(b"*3\r\n$5\r\nRPUSH\r\n$4\r\nke")
    async with await Stores.open(data_dir, durable=False) as stores:
        assert await read(stores) == (["a"], ["a"])


async def test_stores_replace_a_half_made_cluster(data_dir: Path) -> None:
    (data_dir / "postgres.new" / "base").mkdir(parents=True)
    async with await Stores.open(data_dir, durable=False) as stores:
        await write(stores, "a")
        assert await read(stores) == (["a"], ["a"])
    assert not (data_dir / "postgres.new").exists()


def owned(process: psutil.Process, data_dir: Path) -> bool:
    return str(data_dir) in process.cwd()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_stores_run_as_an_ordinary_user(data_dir: Path) -> None:
    python = python_for_everyone()
    if python is None:
        pytest.skip("no interpreter here that an ordinary user may run")
    os.chown(data_dir, NOBODY, NOBODY)
    async with other_process(data_dir, python=python, uid=NOBODY) as (process, is_owner):
        assert is_owner == "True"
        servers = psutil.Process(process.pid).children()
        assert {server.uids().real for server in servers} == {NOBODY}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has anything to leave")
async def test_stores_of_root_do_not_run_as_root(data_dir: Path) -> None:
    data_dir.chmod(0o700)  # noqa: ASYNC240 - one quick call
    kept = 0 if is_program_for_everyone() else 1 << launch._CAP_DAC_READ_SEARCH
    async with await Stores.open(data_dir, durable=False):
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o710  # noqa: ASYNC240 - as above
        servers = [child for child in psutil.Process().children() if owned(child, data_dir)]
        assert len(servers) == 2
        assert 0 not in {server.uids().effective for server in servers}
        for server in servers:
            status = Path(f"/proc/{server.pid}/status").read_text()  # noqa: ASYNC240 - as above
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert {int(fields[f"Cap{each}"], 16) for each in ("Eff", "Prm", "Inh", "Amb")} == {kept}
            assert fields["NoNewPrivs"] == "1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has anything to leave")
def test_launcher_without_root_enters_folders_of_root(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    program = private / "server"
    program.touch(mode=0o755)
    look = "import os, sys; print(os.getuid(), os.access(sys.argv[1], os.X_OK))"
    arguments = [tmp_path / "lock", os.getpid(), int(signal.SIGTERM), NOBODY, NOBODY]
    command = [sys.executable, launch.__file__, *arguments, sys.executable, "-c", look, program]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(NOBODY), "True"]


async def test_stores_refuse_a_file_as_data_dir_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(DataDirUnusableError, match=r"a file is in its place$"):
        await Stores.open(tmp_path / "data")
    with pytest.raises(DataDirUnusableError, match=r"a file is in its place$"):
        await Stores.open(tmp_path / "data" / "deeper")


async def test_stores_name_a_damaged_file_of_endpoints(data_dir: Path) -> None:
    (data_dir / "stores.json").write_text("{")
    with pytest.raises(DataDirUnusableError, match=r"stores\.json is damaged"):
        await Stores.open(data_dir)


async def test_stores_name_a_missing_file_of_endpoints(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir()
    with pytest.raises(DataDirUnusableError, match=r"stores\.json is missing"):
        await Stores.open(data_dir)


async def test_stores_say_why_a_server_does_not_start(data_dir: Path) -> None:
    async with await Stores.open(data_dir, durable=False):
        pass
    (data_dir / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(StoreFailedError, match=r"PostgreSQL did not start: .*pg_control"):
        await Stores.open(data_dir)


async def test_stores_refuse_a_cluster_of_an_unknown_version(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("9")
    save(data_dir / "stores.json", choose(None))
    with pytest.raises(EmbeddedUnavailableError, match="made by PostgreSQL 9"):
        await Stores.open(data_dir)
