"""What is shipped to deploy the gateway fits the gateway: compose file, image and systemd unit.

With `GATEWAY_TEST_SCALE=full` the services of the compose file are started by hand, with the settings it gives them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from redis.asyncio import Redis

from gateway.config import Config, load
from gateway.embedded.stores import Stores
from tests.support import databases
from tests.support.sampling import IS_FULL

ROOT = Path(__file__).parents[2]
SECRETS = {
    "POSTGRES_PASSWORD": "from-the-env-file",
    "VALKEY_PASSWORD": "from-the-env-file",
    "GATEWAY_ADMIN_TOKEN": "a" * 32,
    "GATEWAY_KEY_PEPPER": "p" * 32,
    "GATEWAY_JWT_SECRET": "j" * 32,
}
VARIABLE = re.compile(r"\$\{(\w+)(?::[?-][^}]*)?\}")
# What stopping takes besides shutdown_delay and drain_timeout (docs/rollouts.md).
STOPPING_SECONDS = 12.2
REDIS_DATABASE = 12


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return found


def environment_of(service: str) -> dict[str, str]:
    """As Compose gives it, without variables that are empty."""
    written: dict[str, str] = compose()["services"][service]["environment"]
    filled = {name: VARIABLE.sub(lambda match: SECRETS.get(match[1], ""), value) for name, value in written.items()}
    return {name: value for name, value in filled.items() if value}


def config_of(service: str) -> Config:
    return load(ROOT / "gateway.yaml", environment_of(service), persist_secrets=False)


def settings_of_image() -> dict[str, str]:
    """The environment that the Dockerfile sets."""
    joined = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (line,) = (line for line in joined.splitlines() if line.startswith("ENV "))
    return dict(pair.split("=", 1) for pair in shlex.split(line.removeprefix("ENV ")))


def unit() -> dict[str, str]:
    text = (ROOT / "deploy" / "systemd" / "gateway.service").read_text()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def test_compose_file_gives_every_upstream_the_demo() -> None:
    config, services = config_of("gateway"), compose()["services"]
    assert {target for upstream in config.upstreams for target in upstream.targets} == {"http://demo:9000"}
    entrypoint = services["demo"]["entrypoint"]
    assert entrypoint[entrypoint.index("--port") + 1] == "9000"
    migrating = load(ROOT / "gateway.yaml", environment_of("migrate"), roles=())
    assert (migrating.database, migrating.redis) == (config.database, config.redis)
    assert not set(environment_of("migrate")) & set(SECRETS)


def test_compose_file_waits_longer_than_the_gateway_takes_to_stop() -> None:
    server, grace = config_of("gateway").server, compose()["services"]["gateway"]["stop_grace_period"]
    assert (
        int(grace.removesuffix("s")) > server.shutdown_delay_seconds + server.drain_timeout_seconds + STOPPING_SECONDS
    )


def test_compose_file_makes_the_root_read_only_and_keeps_what_lasts_in_volumes() -> None:
    services, volumes = compose()["services"], compose()["volumes"]
    for name in ("gateway", "migrate", "demo"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
    kept = {mount.split(":")[0] for each in services.values() for mount in each.get("volumes", ())} - {"./gateway.yaml"}
    assert kept == set(volumes)
    assert "spool:/var/lib/gateway" in services["gateway"]["volumes"]


def test_image_runs_as_any_user_on_a_read_only_root() -> None:
    written, settings = (ROOT / "Dockerfile").read_text(), settings_of_image()
    assert re.search(r"^USER \d+:0$", written, re.MULTILINE)
    assert "--group 0 --mode 0770 /var/lib/gateway" in written
    assert {settings[name] for name in ("HOME", "TMPDIR", "GATEWAY_DATA_DIR")} == {"/var/lib/gateway"}
    assert re.search(r"^VOLUME /var/lib/gateway$", written, re.MULTILINE)
    own = {name: value for name, value in settings.items() if name.startswith("GATEWAY_")}
    assert str(load(None, own | environment_of("gateway"), persist_secrets=False).server.health) == "0.0.0.0:8082"


def test_image_installs_what_is_locked_by_hash_with_extras_where_they_are_asked_for() -> None:
    written = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^ARG (.*)$", written, re.MULTILINE) == ["LOCK=requirements-server.lock"]
    assert "pip install --no-cache-dir --require-hashes --requirement ${LOCK}\n" in written
    (extras,) = re.findall(r"--build-arg LOCK=(\S+)", written)
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{extras}", "!requirements-server.lock"} <= set(sent)
    assert (ROOT / extras).is_file()


def test_unit_stops_the_supervisor_first_and_waits_for_it() -> None:
    written, server = unit(), load(None, SECRETS, persist_secrets=False).server
    assert (written["KillMode"], written["Restart"], written["ExecReload"]) == (
        "mixed",
        "always",
        "/bin/kill -HUP $MAINPID",
    )
    stopping = server.shutdown_delay_seconds + server.drain_timeout_seconds + STOPPING_SECONDS
    assert int(written["TimeoutStopSec"].removesuffix("s")) > stopping
    assert f"GATEWAY_DATA_DIR=/var/lib/{written['StateDirectory']}" in written["Environment"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / "gateway.service"
    text = (ROOT / "deploy" / "systemd" / "gateway.service").read_text()
    copy.write_text(text.replace("/opt/gateway/bin/gateway", sys.executable))
    checked = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(not IS_FULL, reason="starts every service; GATEWAY_TEST_SCALE=full")
async def test_services_of_the_compose_file_serve_a_call(stores: Stores, tmp_path: Path) -> None:
    database_url, redis_url = await _own_stores(stores)
    settings = environment_of("gateway") | {
        "GATEWAY_DATABASE__URL": database_url,
        "GATEWAY_REDIS__URL": redis_url,
        "GATEWAY_DATA_DIR": str(tmp_path),
        **dict.fromkeys(("GATEWAY_SERVER__PUBLIC", "GATEWAY_SERVER__ADMIN", "GATEWAY_SERVER__HEALTH"), "127.0.0.1:0"),
    }
    _run("migrate", "up", settings=settings)
    entrypoint = compose()["services"]["demo"]["entrypoint"]
    with _started(["-m", *entrypoint[2:]], settings={}, changed={"0.0.0.0": "127.0.0.1", "9000": "0"}) as demo:
        settings = {name: value.replace("http://demo:9000", demo) for name, value in settings.items()}
        with _started(["-m", "gateway", "serve", "--json"], settings=settings) as line:
            public_url = json.loads(line)["public_url"]
            user = _run("users", "create", "--email", "ada@example.com", "--plan", "pro", "--json", settings=settings)
            key = _run("keys", "create", "--user", user["id"], "--json", settings=settings)["key"]
            async with httpx.AsyncClient(base_url=public_url, headers={"x-api-key": key}) as client:
                files = {"file": ("customers.csv", b"name,age\nAda,36\n", "text/csv")}
                answer = await client.post("/v1/analyze", files=files, timeout=30)
    assert (answer.status_code, answer.headers["x-credits-charged"]) == (200, "1")


async def _own_stores(stores: Stores) -> tuple[str, str]:
    redis_url = f"{stores.redis_url.rpartition('/')[0]}/{REDIS_DATABASE}"
    async with Redis.from_url(redis_url) as redis:
        await redis.flushdb()
    return await databases.create(stores.database_url), redis_url


def _environ(settings: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | settings


def _run(*arguments: str, settings: dict[str, str]) -> Any:
    command = [sys.executable, "-m", "gateway", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=_environ(settings))
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


@contextmanager
def _started(arguments: list[str], *, settings: dict[str, str], changed: dict[str, str] | None = None) -> Iterator[str]:
    """The first line that the process prints, once it serves."""
    words = [(changed or {}).get(word, word) for word in arguments]
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=_environ(settings)
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
