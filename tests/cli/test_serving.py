"""`serve` fails with one line, before it starts a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECRETS = {
    "GATEWAY_ADMIN_TOKEN": "an admin token of a test",
    "GATEWAY_KEY_PEPPER": "a pepper of a test that is long enough",
    "GATEWAY_JWT_SECRET": "a secret of a test that is as long as a hash",
}


def serve(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **SECRETS, "GATEWAY_SERVER__PUBLIC": "127.0.0.1:0", "GATEWAY_SERVER__ADMIN": "127.0.0.1:0"}
        | environment,
        timeout=60,
    )


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
