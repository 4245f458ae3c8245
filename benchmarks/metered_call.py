"""A metered call beside bare forwarding by nginx: throughput and CPU per request, in interleaved rounds of one run.

`python -m benchmarks.metered_call`. Both forward to the same static nginx; wrk drives both. The gateway does all it
does in production: key, plan, three windows, credits, hold, settlement, a row in PostgreSQL.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import Family, describe, need, pids_running

ROUNDS = 5
SECONDS = 4
CONNECTIONS = 64

_NGINX = """
daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/{name}.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000000;
  {http}
}}
"""
_UPSTREAM = """server {{ listen 127.0.0.1:{port} backlog=4096;
  location / {{ default_type application/json; return 200 '{{"ok":true,"items":[1,2,3]}}'; }} }}"""
_PROXY = """upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
  location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}"""

_CONFIG = """
server: {{public: "127.0.0.1:0", admin: "127.0.0.1:0"}}
data_dir: {folder}/data
upstreams: {{static: {{targets: ["http://127.0.0.1:{upstream}"]}}}}
routes:
  - {{name: call, match: {{path: /call, methods: [GET]}}, upstream: static, usage_type: call, price: {{credits: 1}}}}
plans:
  - {{id: bench, name: bench, price: 0, credits_per_period: 1000000000, requests_per_minute: 100000000,
     requests_per_hour: 1000000000, max_api_calls_per_day: 2000000000}}
"""


@dataclass(frozen=True, slots=True)
class Sample:
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Contender:
    """What is measured: its URL, the processes whose CPU counts, the header that lets a call in."""

    name: str
    url: str
    processes: Family
    header: str | None = None


def main() -> None:
    wrk, nginx = need("wrk", "wrk"), need("nginx", "nginx-light")
    if wrk is None or nginx is None:
        sys.exit("skipped: wrk and nginx are needed (Debian: apt-get install wrk nginx-light)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream, proxy = 18080, 18081
        stack.enter_context(_nginx(nginx, folder, "upstream", _UPSTREAM.format(port=upstream)))
        bare = stack.enter_context(_nginx(nginx, folder, "proxy", _PROXY.format(port=proxy, upstream=upstream)))
        urls, key, gateway = stack.enter_context(_gateway(folder, upstream))
        contenders = [
            Contender("nginx proxy_pass", f"http://127.0.0.1:{proxy}/call", Family.of(bare.pid)),
            Contender(
                "gateway, metered",
                f"{urls['public_url']}/call",
                pids_running(Family.of(gateway.pid), "child", "proxy"),
                f"X-API-Key: {key}",
            ),
        ]
        stores = Family.of(gateway.pid)
        valkey, writer = pids_running(stores, "valkey-server"), pids_running(stores, "child", "worker")
        _report(contenders, *_rounds(wrk, contenders, {"valkey": valkey, "usage writer and admin": writer}))


def _rounds(
    wrk: str, contenders: list[Contender], behind: dict[str, Family]
) -> tuple[dict[str, list[Sample]], dict[str, list[float]]]:
    samples: dict[str, list[Sample]] = {each.name: [] for each in contenders}
    shares: dict[str, list[float]] = {name: [] for name in behind}
    for round_number in range(ROUNDS + 1):
        for each in contenders:
            before = {name: family.cpu_seconds() for name, family in behind.items()}
            sample, requests = _drive(wrk, each)
            if round_number == 0:
                continue  # connections, caches, the first pages of everything
            samples[each.name].append(sample)
            if each.header:
                for name, family in behind.items():
                    shares[name].append((family.cpu_seconds() - before[name]) / requests * 1e6)
    return samples, shares


def _drive(wrk: str, contender: Contender) -> tuple[Sample, int]:
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency"]
    command += ["-H", contender.header] if contender.header else []
    before = contender.processes.cpu_seconds()
    output = subprocess.run([*command, contender.url], capture_output=True, text=True, check=True).stdout
    spent = contender.processes.cpu_seconds() - before
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"{contender.name} did not answer well:\n{output}")
    requests = int(_found(r"(\d+) requests in", output))
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", output))
    sample = Sample(rate, _milliseconds("50%", output), _milliseconds("99%", output), spent / requests * 1e6)
    return sample, requests


def _report(contenders: list[Contender], samples: dict[str, list[Sample]], shares: dict[str, list[float]]) -> None:
    print(f"{describe()}; wrk -t1 -c{CONNECTIONS} -d{SECONDS}s, medians of {ROUNDS} interleaved rounds\n")
    print("| | requests/s | p50 ms | p99 ms | CPU µs per request | times the CPU of nginx (spread) |")
    print("|---|---|---|---|---|---|")
    baseline = samples[contenders[0].name]
    for each in contenders:
        measured = samples[each.name]
        ratios = [one.cpu_us / base.cpu_us for one, base in zip(measured, baseline, strict=True)]
        cells = [
            f"{statistics.median(getattr(one, field) for one in measured):.{digits}f}"
            for field, digits in (("requests_per_second", 0), ("p50_ms", 2), ("p99_ms", 2), ("cpu_us", 1))
        ]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {each.name} | {' | '.join(cells)} | {spread} |")
    print()
    for name, values in shares.items():
        print(f"{name}: {statistics.median(values):.1f} µs of CPU per metered request")


@contextmanager
def _nginx(nginx: str, folder: Path, name: str, http: str) -> Iterator[subprocess.Popen[bytes]]:
    config = folder / f"{name}.conf"
    config.write_text(_NGINX.format(folder=folder, name=name, http=http))
    process = subprocess.Popen([nginx, "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _gateway(folder: Path, upstream: int) -> Iterator[tuple[dict[str, str], str, subprocess.Popen[str]]]:
    config = folder / "gateway.yaml"
    config.write_text(_CONFIG.format(folder=folder, upstream=upstream))
    command = [sys.executable, "-m", "gateway"]
    where = ["--config", str(config), "--json"]
    _json([*command, "users", "create", "--email", "bench@example.com", "--plan", "bench", *where])
    key = _json([*command, "keys", "create", "--user", "bench@example.com", *where])["key"]
    with subprocess.Popen(
        [*command, "serve", *where], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield json.loads(next(iter(process.stdout or ()))), key, process
        finally:
            process.terminate()


def _json(command: list[str]) -> dict[str, str]:
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def _milliseconds(percentile: str, output: str) -> float:
    value, unit = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", output).groups()  # type: ignore[union-attr] # wrk's
    return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _found(pattern: str, output: str) -> str:
    found = re.search(pattern, output)
    if found is None:
        sys.exit(f"wrk said something else:\n{output}")
    return found.group(1)


if __name__ == "__main__":
    main()
