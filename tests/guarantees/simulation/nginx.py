"""Debian's nginx in front of gateways, as docs/rollouts.md configures it."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.polling import eventually, listening

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
PATIENCE_SECONDS = 60.0  # only a failure waits so long
# Port of `kept`: nginx keeps its connections to the gateways; port of `new`: it opens one for each call.
CONFIGURATION = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log notice;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    proxy_http_version 1.1;
    upstream kept {{ {servers} keepalive 32; }}
    upstream new {{ {servers} }}
    server {{
        listen 127.0.0.1:{kept};
        location / {{ proxy_pass http://kept; proxy_set_header Connection ""; }}
    }}
    server {{
        listen 127.0.0.1:{new};
        location / {{ proxy_pass http://new; }}
    }}
}}
"""


@dataclass
class Nginx:
    """Serves on the ports `kept` and `new` in front of gateways on other ports."""

    folder: Path
    kept: int
    new: int
    process: asyncio.subprocess.Process | None = None

    @property
    def errors(self) -> Path:
        return self.folder / "error.log"

    def write(self, gateways: Sequence[int]) -> Path:
        self.folder.mkdir(exist_ok=True)
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in gateways)
        path = self.folder / "nginx.conf"
        path.write_text(CONFIGURATION.format(folder=self.folder, servers=servers, kept=self.kept, new=self.new))
        return path

    async def lead_to(self, gateways: Sequence[int]) -> None:
        """Returns when no call goes to another gateway any more."""
        assert self.process is not None
        master = psutil.Process(self.process.pid)
        before = set(master.children())
        self.write(gateways)
        self.process.send_signal(signal.SIGHUP)
        await eventually(lambda: not before & set(master.children()), PATIENCE_SECONDS)


@asynccontextmanager
async def nginx(folder: Path, *, gateways: Sequence[int], kept: int, new: int) -> AsyncIterator[Nginx]:
    assert NGINX is not None
    front = Nginx(folder, kept, new)
    path = front.write(gateways)
    front.process = process = await asyncio.create_subprocess_exec(
        NGINX, "-e", str(front.errors), "-p", str(folder), "-c", str(path), stdout=subprocess.DEVNULL
    )
    try:
        await asyncio.gather(listening(kept, PATIENCE_SECONDS), listening(new, PATIENCE_SECONDS))
        yield front
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)
