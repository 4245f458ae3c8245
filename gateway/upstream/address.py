"""The address of a target, parsed from its URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NETLOC = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(?::[0-9]{1,5})?", re.ASCII)
_NUMERIC = re.compile(r"[0-9.]+", re.ASCII)
# RFC 1123 section 2.1, with the underscore that container networks put into service names.
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_][a-z0-9_-]{0,62}(\.[a-z0-9_-]{1,63})*\.?", re.ASCII)
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,=:@-]+)*", re.ASCII)
_BLANK = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class Address:
    """Scheme (http or https), host (a name in ASCII or a literal without brackets) and port.

    `base_path` stands before the path of each request; it is empty, or begins with a slash and ends in none.
    """

    scheme: str
    host: str
    port: int
    base_path: str = ""

    @property
    def authority(self) -> bytes:
        """The value of the Host field (RFC 9110 section 7.2): the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}").encode("ascii")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority.decode()}{self.base_path}"


def parse_target(url: str) -> Address:
    """`http://host`, `https://host:port/base`, `http://[::1]:9000`. ValueError says what is wrong with anything else.

    `gateway/config` has the same rule, so that a target which it accepts does not fail here.
    """
    try:
        parts = urlsplit(url)
        host, port = _host(parts), parts.port
    except ValueError as error:  # UnicodeError is one
        raise ValueError(f"target {url!r}: {error}") from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"target {url!r}: the scheme must be http or https")
    base_path = parts.path.removesuffix("/")
    if not is_base_path(base_path) or parts.query or parts.fragment:
        raise ValueError(f"target {url!r}: only scheme, host, port and a plain path may be given")
    if port == 0 or _BLANK.search(url):
        raise ValueError(f"target {url!r}: nothing listens on port 0, and a URL has no blanks")
    return Address(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], base_path)


def is_base_path(path: str) -> bool:
    """Whether a path is empty, or plain segments: none empty, of dots, or percent-encoded."""
    return _BASE_PATH.fullmatch(path) is not None and not any(part in (".", "..") for part in path.split("/"))


def _host(parts: SplitResult) -> str:
    if not _NETLOC.fullmatch(parts.netloc):
        raise ValueError("there is no host, or more than a host and a port")
    host = parts.hostname or ""
    if ":" in host:
        return str(IPv6Address(host))
    if _NUMERIC.fullmatch(host):
        return str(IPv4Address(host))
    name = host.encode("idna").decode("ascii")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{host!r} is no name of a host")
    return name
