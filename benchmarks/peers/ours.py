"""The gateway as `gateway serve` runs it: every call checked, limited, held, settled and recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.machine import Family, pids_running
from benchmarks.peers.contender import Contender

LOG_LINES = 20
_CASES = frozenset(
    {"small JSON", "1 MB upload", "100 events", "1,000 idle connections", "chat completion"}
    | {"refused 401", "refused 429", "refused 402"}
)

_CONFIG = """
server: {{public: "127.0.0.1:0", admin: "127.0.0.1:0", workers: {workers}}}
data_dir: {data_dir}
upstreams: {{static: {{targets: ["http://127.0.0.1:{upstream}"], max_connections: 1024}}}}
routes:
  - {{name: call, match: {{path: /call, methods: [GET]}}, upstream: static, usage_type: call, price: {{credits: 1}}}}
  - {{name: upload, match: {{path: /upload, methods: [POST]}}, upstream: static, usage_type: analysis,
     price: {{credits: 1}}, max_body_bytes: 20MiB}}
  - {{name: stream, match: {{path: /stream, methods: [GET]}}, upstream: static, usage_type: ai_generation,
     price: {{credits: 1, per: 1000 tokens, count: "response:/usage/total_tokens", hold: 1}}}}
  - {{name: chat, match: {{path: /v1/chat/completions, methods: [POST]}}, upstream: static, usage_type: ai_generation,
     price: {{credits: 1, per: 1000 tokens, count: "response:/usage/total_tokens", hold: 1}}}}
plans:
  - {{id: ok, name: ok, price: 0, credits_per_period: 1000000000000, requests_per_minute: 100000000,
     requests_per_hour: 1000000000, max_api_calls_per_day: 2000000000}}
  - {{id: limited, name: limited, price: 0, credits_per_period: 1000000000, requests_per_minute: 0,
     requests_per_hour: 1000000000, max_api_calls_per_day: 2000000000}}
  - {{id: broke, name: broke, price: 0, credits_per_period: 0, requests_per_minute: 100000000,
     requests_per_hour: 1000000000, max_api_calls_per_day: 2000000000}}
"""


class NotStartedError(Exception):
    """`gateway serve` ended before it was ready."""


@contextmanager
def gateway(folder: Path, upstream_port: int, *, workers: int = 1, python: str = sys.executable) -> Iterator[Contender]:
    """`gateway serve` by that Python, so that an installed wheel can be measured beside the source."""
    with serving(folder, upstream_port, workers=workers, python=python) as (contender, _):
        yield contender


@contextmanager
def serving(
    folder: Path,
    upstream_port: int,
    *,
    workers: int = 1,
    python: str = sys.executable,
    more_routes: str = "",
    more_server: str = "",
) -> Iterator[tuple[Contender, dict[str, str]]]:
    """The same, with what `gateway serve --json` prints; `more_server` are further settings of `server`."""
    config = folder / "gateway.yaml"
    text = _CONFIG.format(data_dir=data_dir(folder), upstream=upstream_port, workers=f"{workers}{more_server}")
    config.write_text(text.replace("plans:\n", f"{more_routes}plans:\n"))
    command, where = [python, "-m", "gateway"], ["--config", str(config), "--json"]
    keys = {}
    for plan in ("ok", "limited", "broke"):
        _json([*command, "users", "create", "--email", f"{plan}@example.com", "--plan", plan, *where], folder)
        keys[plan] = _json([*command, "keys", "create", "--user", f"{plan}@example.com", *where], folder)["key"]
    with (
        (folder / "gateway.log").open("w") as log,
        subprocess.Popen(
            [*command, "serve", *where], stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder
        ) as process,
    ):
        try:
            printed = _read_urls(process, log=folder / "gateway.log")
            contender = _contender(printed, Family.of(process.pid), keys)
            yield replace(contender, log=folder / "gateway.log"), printed
        finally:
            process.terminate()


def _read_urls(process: subprocess.Popen[str], *, log: Path) -> dict[str, str]:
    """What `gateway serve --json` prints once it is ready. Raises NotStartedError, with the end of its log."""
    line = next(iter(process.stdout or ()), "")
    if not line:
        end = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-LOG_LINES:])
        raise NotStartedError(f"gateway serve ended with {process.wait()} before it was ready:\n{end}")
    urls: dict[str, str] = json.loads(line)
    return urls


def data_dir(folder: Path) -> Path:
    return folder / "data"


def _contender(printed: dict[str, str], family: Family, keys: dict[str, str]) -> Contender:
    behind = {
        "Valkey": pids_running(family, "valkey-server"),
        "usage writer": pids_running(family, "child", "worker"),
        "PostgreSQL": pids_running(family, "postgres"),
    }
    unknown = keys["ok"][:-1] + ("a" if keys["ok"][-1] != "a" else "b")
    proxies = pids_running(family, "child", "proxy")
    named = {**keys, "unknown": unknown}
    return Contender("gateway, metered", printed["public_url"], proxies, _CASES, behind=behind, keys=named)


def _json(command: list[str], folder: Path) -> dict[str, str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=folder)
    found: dict[str, str] = json.loads(done.stdout)
    return found
