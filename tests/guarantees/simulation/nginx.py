"""Debian's nginx in front of gateways, as docs/rollouts.md configures it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
PATIENCE_SECONDS = 10.0
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


@asynccontextmanager
async def nginx(folder: Path, *, gateways: Sequence[int], kept: int, new: int) -> AsyncIterator[Path]:
    """Serves on the ports `kept` and `new` in front of these ports; gives the file of its errors."""
    assert NGINX is not None
    path = _configure(folder, gateways, kept=kept, new=new)
    process = await asyncio.create_subprocess_exec(
        NGINX, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(path), stdout=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(_listens(kept), _listens(new))
        yield folder / "error.log"
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)


def _configure(folder: Path, gateways: Sequence[int], *, kept: int, new: int) -> Path:
    folder.mkdir()
    servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in gateways)
    path = folder / "nginx.conf"
    path.write_text(CONFIGURATION.format(folder=folder, servers=servers, kept=kept, new=new))
    return path


async def _listens(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
