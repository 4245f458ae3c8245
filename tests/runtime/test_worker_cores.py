"""`server.worker_cores`: public workers and the embedded Valkey have these cores, everything else the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.loading import child_environment, load
from tests.cli.test_serving import SECRETS, serve, serving

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores, on Linux")


@needs_two_cores
def test_calls_have_cores_of_their_own(tmp_path: Path) -> None:
    kept, others = {CORES[0]}, set(CORES[1:])
    command, given = serving(tmp_path, {"GATEWAY_SERVER__WORKER_CORES": str(CORES[0])})
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=given) as process:
        try:
            assert process.stdout is not None
            json.loads(process.stdout.readline())
            found = {command: os.sched_getaffinity(pid) for pid, command in _descendants(process.pid)}
        finally:
            process.send_signal(signal.SIGTERM)

    assert {each: cores for each, cores in found.items() if _is_for_calls(each)} == {
        each: kept for each in found if _is_for_calls(each)
    }
    rest = {each: cores for each, cores in found.items() if not _is_for_calls(each)}
    assert rest == dict.fromkeys(rest, others)
    assert sum(map(_is_for_calls, found)) == 2
    assert any("child admin worker" in each for each in rest)
    assert any("postgres" in each for each in rest)


@needs_two_cores
def test_demo_keeps_cores_for_calls_too(tmp_path: Path) -> None:
    refused = gateway(tmp_path, "demo", "--port", "0", "--admin-port", "0", GATEWAY_SERVER__WORKER_CORES="9999")

    assert refused.returncode == 1
    assert refused.stderr.startswith("gateway: server.worker_cores: this gateway may use the cores")
    assert refused.stderr.count("\n") == 1, refused.stderr


@pytest.mark.skipif(not CORES, reason="only Linux keeps processes to cores")
def test_commands_start_the_stores_whatever_cores_are_for_calls(tmp_path: Path) -> None:
    listed = gateway(tmp_path, "plans", "list", GATEWAY_SERVER__WORKER_CORES=",".join(map(str, CORES)))

    assert (listed.returncode, listed.stderr) == (0, "")


@pytest.mark.parametrize("cores", [(), (0,), (0, 3)], ids=str)
def test_processes_have_the_cores_of_the_start_whatever_the_file_has_become(
    tmp_path: Path, cores: tuple[int, ...]
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"server: {{worker_cores: {list(cores)}}}")
    started = load(file, SECRETS, overrides={"data_dir": str(tmp_path)})
    inherited = child_environment(started, database_url="embedded", redis_url="embedded", health="", metrics_dir="")
    file.write_text("server: {worker_cores: [9999]}")

    assert load(file, inherited).server.worker_cores == cores


@pytest.mark.skipif(not CORES, reason="only Linux keeps processes to cores")
@pytest.mark.parametrize("cores", ["9999", ",".join(map(str, CORES))], ids=["unknown", "all"])
def test_cores_that_cannot_be_kept_are_refused_in_one_line(tmp_path: Path, cores: str) -> None:
    refused = serve(tmp_path, GATEWAY_SERVER__WORKER_CORES=cores)

    assert refused.returncode == 1
    assert "server.worker_cores: this gateway may use the cores" in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr


def gateway(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", *arguments, "--data-dir", str(tmp_path / "data")]
    given = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=given)


def _is_for_calls(command: str) -> bool:
    return "child proxy" in command or "valkey-server" in command


def _descendants(pid: int) -> Iterator[tuple[int, str]]:
    """The process and all that it has started, with their commands."""
    yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _descendants(int(child))
