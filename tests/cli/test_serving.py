"""`serve` fails with one line, before it starts a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SECRETS = {
    "GATEWAY_ADMIN_TOKEN": "an admin token of a test",
    "GATEWAY_KEY_PEPPER": "a pepper of a test that is long enough",
    "GATEWAY_JWT_SECRET": "a secret of a test that is as long as a hash",
}


ADDRESSES = {"GATEWAY_SERVER__PUBLIC": "127.0.0.1:0", "GATEWAY_SERVER__ADMIN": "127.0.0.1:0"}


def serve(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command, given = serving(tmp_path, environment)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=given)


def serving(tmp_path: Path, environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The command and its environment."""
    command = [sys.executable, "-m", "gateway", "serve", "--data-dir", str(tmp_path / "data")]
    return command, {**os.environ, **SECRETS, **ADDRESSES, **environment}


@pytest.mark.parametrize(
    ("database_url", "redis_url", "complaint"),
    [
        ("postgresql://u:p@127.0.0.1:1/none", "redis://127.0.0.1:1", "the database is out of reach"),
        (None, "redis://127.0.0.1:1", "cannot connect to Redis"),
    ],
    ids=["no database", "no Redis"],
)
def test_serve_without_a_store_prints_one_line(
    tmp_path: Path, migrated_url: str, database_url: str | None, redis_url: str, complaint: str
) -> None:
    refused = serve(tmp_path, GATEWAY_DATABASE__URL=database_url or migrated_url, GATEWAY_REDIS__URL=redis_url)

    assert refused.returncode == 1
    assert complaint in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr


def test_serve_does_not_migrate_a_configured_database(tmp_path: Path, database_url: str) -> None:
    refused = serve(tmp_path, GATEWAY_DATABASE__URL=database_url, GATEWAY_REDIS__URL="redis://127.0.0.1:1")

    assert refused.returncode == 1
    assert "run `gateway migrate up`" in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr


def test_serve_with_another_pepper_is_refused(tmp_path: Path, own_database_url: str) -> None:
    stores = {"GATEWAY_DATABASE__URL": own_database_url, "GATEWAY_REDIS__URL": "redis://127.0.0.1:1"}
    assert "cannot connect to Redis" in serve(tmp_path, **stores).stderr

    refused = serve(tmp_path, **stores, GATEWAY_KEY_PEPPER="another secret of a test that is as long as a hash")

    assert refused.returncode == 1
    assert "GATEWAY_KEY_PEPPER: version 1 is not the pepper under which this database has its keys" in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr


# A signal that comes as soon as Python reads the gateway.
HUNG_UP = """
import os, signal, sys

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` has it ignored

class HangUp:
    def find_spec(self, name, path, target=None):
        if name == "gateway.cli.main":
            os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, HangUp())
from gateway.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "code"),
    [("serve", 1), ("proxy", 1), ("admin", 1), ("worker", 1), ("demo", 2), ("plans", -signal.SIGHUP)],
)
def test_reload_ends_no_gateway_that_starts(tmp_path: Path, command: str, code: int) -> None:
    stores = {"GATEWAY_DATABASE__URL": "postgresql://u:p@127.0.0.1:1/none", "GATEWAY_REDIS__URL": "redis://127.0.0.1:1"}
    environment = serving(tmp_path, stores)[1]
    arguments = {"demo": ["--port", "none"], "plans": ["list"]}.get(command, [])

    ended = subprocess.run(
        [sys.executable, "-c", HUNG_UP, command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
        env=environment,
    )

    assert ended.returncode == code, ended.stderr


def test_preparation_of_the_stores_ends_with_its_supervisor(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/none"
        stores = {"GATEWAY_DATABASE__URL": url, "GATEWAY_REDIS__URL": "redis://127.0.0.1:1"}
        command, given = serving(tmp_path, stores)
        with (
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=given) as process,
            silent.accept()[0],
        ):
            process.kill()
            assert process.communicate(timeout=60)[1] == "", "it has not gone on until it failed"
