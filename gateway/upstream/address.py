"""Where a target listens, read from its URL."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """Scheme (http or https), host (a name in ASCII or a literal without brackets) and port."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> bytes:
        """The value of the Host field (RFC 9110 section 7.2): the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}").encode("ascii")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority.decode()}"


def parse_target(url: str) -> Address:
    """`http://host`, `https://host:port`, `http://[::1]:9000`. ValueError says what is wrong with anything else."""
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"target {url!r}: the scheme must be http or https")
    if not parts.hostname:
        raise ValueError(f"target {url!r}: there is no host")
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"target {url!r}: only scheme, host and port may be given; paths come from the request")
    try:
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode("ascii")
    except ValueError as error:  # UnicodeError is one
        raise ValueError(f"target {url!r}: {error}") from error
    return Address(parts.scheme, host, port)
