"""Ports and passwords of the stores: chosen once, and stored in the data directory for its owner only."""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.embedded.errors import DataDirUnusableError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One store on the loopback interface. A password keeps other users of the machine out."""

    port: int
    password: str


@dataclass(frozen=True, slots=True)
class Endpoints:
    postgres: Endpoint
    valkey: Endpoint

    @property
    def database_url(self) -> str:
        return f"postgresql://gateway:{self.postgres.password}@127.0.0.1:{self.postgres.port}/gateway"

    @property
    def redis_url(self) -> str:
        return f"redis://:{self.valkey.password}@127.0.0.1:{self.valkey.port}/0"


def choose(saved: Endpoints | None) -> Endpoints:
    """The saved endpoints, with a new port where another process has taken one; new ones where there are none."""
    if saved is None:
        chosen = Endpoints(postgres=_fresh(), valkey=_fresh())
    else:
        chosen = Endpoints(postgres=_usable(saved.postgres), valkey=_usable(saved.valkey))
    # The kernel may hand out one port twice, since nothing listens on the first yet.
    return chosen if chosen.postgres.port != chosen.valkey.port else choose(saved)


def load(path: Path) -> Endpoints | None:
    """The saved endpoints, None where there are none yet. Raises DataDirUnusableError for a damaged file."""
    try:
        entries = json.loads(path.read_text())
        return Endpoints(postgres=Endpoint(**entries["postgres"]), valkey=Endpoint(**entries["valkey"]))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise DataDirUnusableError(f"{path} belongs to another user; run as the user who started the stores") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataDirUnusableError(f"{path} is damaged; restore it or remove the data directory") from error


def save(path: Path, endpoints: Endpoints) -> None:
    """Replaces the file as a whole, so that a crash leaves the old or the new one."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(endpoints), file)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)


def is_taken(port: int) -> bool:
    """Whether another process listens on the port. A server may still lose the port before it starts."""
    with socket.socket() as probe:
        # As the servers do: connections of an earlier start in TIME_WAIT do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def any_taken(endpoints: Endpoints) -> bool:
    return is_taken(endpoints.postgres.port) or is_taken(endpoints.valkey.port)


def _usable(endpoint: Endpoint) -> Endpoint:
    return Endpoint(port=_free_port(), password=endpoint.password) if is_taken(endpoint.port) else endpoint


def _fresh() -> Endpoint:
    return Endpoint(port=_free_port(), password=secrets.token_hex(24))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
