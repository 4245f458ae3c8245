"""What is compared, each as its own documentation sets it up, and where each says what it has counted.

A contender that counts gives, for the calls since it was last asked, (input, output) pairs.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.peers.contender import free_port, running
from benchmarks.peers.packaged import installed, portkey_gateway

Counted = list[tuple[int, int]]
OUTPUT_CREDITS = 10**6  # a token of output in the gateway's price: one charge tells both counts
_WAIT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Contender:
    """`prefixes` are put before a path, by API; APIs that it does not serve have none. `counted` gives what is new."""

    name: str
    url: str
    prefixes: Mapping[str, str]
    fields: Mapping[str, str]
    counted: Callable[[], Counted]
    fields_by_api: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def wait_for_counts(self) -> Counted:
        """What the last call was counted as; nothing where it does not say within seconds."""
        deadline, found = time.monotonic() + _WAIT_SECONDS, list[tuple[int, int]]()
        while time.monotonic() < deadline and not found:
            time.sleep(0.1)
            found = self.counted()
        return found


_APIS = ("openai", "anthropic", "gemini", "ollama", "bedrock")
_GATEWAY = """
server: {{public: "127.0.0.1:0", admin: "127.0.0.1:0", workers: 1}}
data_dir: {folder}/data
upstreams: {{fake: {{targets: ["http://127.0.0.1:{port}"]}}}}
prices:
{prices}
routes:
{routes}
plans:
  - {{id: ok, name: ok, price: 0, credits_per_period: 1000000000000}}
"""
_PATHS = {
    "openai": ["/v1/chat/completions", "/v1/responses", "/v1/embeddings"],
    "anthropic": ["/v1/messages"],
    "gemini": ["/v1beta/**"],
    "ollama": ["/api/chat"],
    "bedrock": ["/model/**"],
}


@contextmanager
def gateway(folder: Path, port: int) -> Iterator[Contender]:
    """The gateway, with a price list for each API; its charge says what it counted."""
    routes = [
        f'  - {{name: {api}{number}, match: {{path: "{path}", methods: [POST]}}, upstream: fake, price: {api}}}'
        for api, paths in _PATHS.items()
        for number, path in enumerate(paths)
    ]
    prices = [
        f'  {api}: {{reader: {api}, per: token, hold: 1, models: {{"*": {{input: 1, output: {OUTPUT_CREDITS}}}}}}}'
        for api in _PATHS
    ]
    config = folder / "gateway.yaml"
    config.write_text(_GATEWAY.format(folder=folder, port=port, prices="\n".join(prices), routes="\n".join(routes)))
    command, where = [sys.executable, "-m", "gateway"], ["--config", str(config), "--json"]
    _said([*command, "users", "create", "--email", "a@example.com", "--plan", "ok", *where])
    key = _said([*command, "keys", "create", "--user", "a@example.com", *where])["key"]
    with subprocess.Popen(
        [*command, "serve", *where], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            said = json.loads(next(iter(process.stdout or ())))
            counted = _charges(said["admin_url"], said["admin_token"])
            yield Contender("the gateway", said["public_url"], dict.fromkeys(_APIS, ""), {"x-api-key": key}, counted)
        finally:
            process.terminate()


def _charges(admin_url: str, token: str) -> Callable[[], Counted]:
    seen: set[str] = set()

    def counted() -> Counted:
        answer = httpx.get(f"{admin_url}/admin/v1/usage", headers={"authorization": f"Bearer {token}"})
        rows = [row for row in answer.json()["data"] if row["request_id"] not in seen]
        seen.update(row["request_id"] for row in rows)
        return [(row["credits_charged"] % OUTPUT_CREDITS, row["credits_charged"] // OUTPUT_CREDITS) for row in rows]

    return counted


_CALLBACK = """
import json
from litellm.integrations.custom_logger import CustomLogger

class Written(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        payload = kwargs.get("standard_logging_object") or {}
        with open("counted.jsonl", "a") as file:
            file.write(json.dumps([payload.get("prompt_tokens") or 0, payload.get("completion_tokens") or 0]) + "\\n")

written = Written()
"""
_LITELLM = """
model_list:
  - {{model_name: "*", litellm_params: {{model: "openai/*", api_base: "http://127.0.0.1:{port}/v1", api_key: none}}}}
general_settings:
  master_key: sk-benchmark
  always_include_stream_usage: true
  pass_through_endpoints:
    - {{path: "/api/chat", target: "http://127.0.0.1:{port}/api/chat"}}
    - {{path: "/model", target: "http://127.0.0.1:{port}/model", include_subpath: true}}
litellm_settings: {{telemetry: false, callbacks: written.written}}
"""


@contextmanager
def litellm(folder: Path, port: int) -> Iterator[Contender]:
    """LiteLLM's proxy: own endpoints for OpenAI, pass-through ones for the rest. A callback writes what it counts."""
    program, at = installed("litellm", "litellm[proxy]"), free_port()
    (folder / "litellm.yaml").write_text(_LITELLM.format(port=port))
    (folder / "written.py").write_text(_CALLBACK)
    upstream, secret = f"http://127.0.0.1:{port}", "none"
    environment = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "ANTHROPIC_API_BASE": upstream,
        "GEMINI_API_BASE": upstream,
        "ANTHROPIC_API_KEY": secret,
        "GEMINI_API_KEY": secret,
    }
    command = [program, "--config", "litellm.yaml", "--host", "127.0.0.1", "--port", str(at), "--num_workers", "1"]
    prefixes = {"openai": "", "anthropic": "/anthropic", "gemini": "/gemini", "ollama": "", "bedrock": ""}
    with running(command, at, folder / "litellm.log", cwd=folder, env=environment):
        name = f"LiteLLM {_version(program, 'litellm')}"
        fields = {"authorization": "Bearer sk-benchmark"}
        gemini = {"x-goog-api-key": "sk-benchmark"}
        counted = _lines(folder / "counted.jsonl")
        yield Contender(name, f"http://127.0.0.1:{at}", prefixes, fields, counted, {"gemini": gemini})


def _lines(path: Path) -> Callable[[], Counted]:
    read = 0

    def counted() -> Counted:
        nonlocal read
        lines = path.read_text().splitlines() if path.exists() else []
        new, read = lines[read:], len(lines)
        return [(int(input_count), int(output)) for input_count, output in map(json.loads, new)]

    return counted


_METERING = """
import sys, uvicorn
from agent_metering.providers import registry
for provider in registry.get_registry().values():
    provider.base_url = sys.argv[1]
uvicorn.run("agent_metering.proxy:app", host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
"""


@contextmanager
def agent_metering(folder: Path, port: int) -> Iterator[Contender]:
    """llm-agent-metering's proxy with its own providers, whose addresses are changed; it counts into SQLite."""
    python, at = installed("python", "llm-agent-metering", folder="agent-metering"), free_port()
    (folder / "metering.py").write_text(_METERING)
    command = [python, "metering.py", f"http://127.0.0.1:{port}", str(at)]
    prefixes = {api: f"/proxy/{api}" for api in ("openai", "anthropic", "gemini")}
    with running(command, at, folder / "metering.log", cwd=folder):
        name = f"llm-agent-metering {_version(python, 'llm-agent-metering')}"
        counted = _rows(folder / "agent_metering.db")
        yield Contender(name, f"http://127.0.0.1:{at}", prefixes, {"authorization": "Bearer none"}, counted)


def _rows(path: Path) -> Callable[[], Counted]:
    last = 0

    def counted() -> Counted:
        nonlocal last
        if not path.exists():
            return []
        with sqlite3.connect(path) as database:
            query = "SELECT id, input_tokens, output_tokens FROM usage_log WHERE id > ? ORDER BY id"
            rows = database.execute(query, (last,)).fetchall()
        last = max([last, *(row[0] for row in rows)])
        return [(row[1], row[2]) for row in rows]

    return counted


@contextmanager
def portkey(folder: Path, port: int) -> Iterator[Contender]:
    """Portkey's open gateway. It has no meter: its console shows bodies, and its cloud, which is closed, counts."""
    by_api = {
        api: {"x-portkey-provider": provider, "x-portkey-custom-host": f"http://127.0.0.1:{port}{base}"}
        for api, provider, base in (("openai", "openai", "/v1"), ("anthropic", "anthropic", "/v1"))
    }
    with portkey_gateway(folder) as started:
        name, fields = f"Portkey gateway {started.version}", {"authorization": "Bearer none"}
        yield Contender(name, started.url, dict.fromkeys(by_api, ""), fields, list, by_api)


def _version(program: str, package: str) -> str:
    python = str(Path(program).parent / "python")
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _said(command: list[str]) -> dict[str, str]:
    found: dict[str, str] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


CONTENDERS = {"gateway": gateway, "litellm": litellm, "portkey": portkey, "agent_metering": agent_metering}
