"""`python -m gateway.demo --port 9000`: the demo upstream alone, on the loopback interface or that of `--host`."""

from __future__ import annotations

import argparse
import socket
import sys

import uvicorn

from gateway.demo.app import build

# As nginx's keepalive_timeout, so that a gateway's idle connections outlive a pause between two calls.
_KEEP_ALIVE_SECONDS = 75


def main() -> None:
    """Prints the address once it accepts connections; port 0 picks a free one."""
    parser = argparse.ArgumentParser(prog="python -m gateway.demo", description="The bundled demo upstream.")
    parser.add_argument("--port", type=int, default=9000, help="0 picks a free one (default: 9000)")
    parser.add_argument("--host", default="127.0.0.1", help="an IPv4 address of this machine (default: 127.0.0.1)")
    arguments = parser.parse_args()
    host: str = arguments.host
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, arguments.port))
        listener.listen(1024)
        sys.stdout.write(f"http://{host}:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        config = uvicorn.Config(build(), log_level="warning", access_log=False, timeout_keep_alive=_KEEP_ALIVE_SECONDS)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
