"""Types of settings, and the parsers of quantities and addresses in gateway.yaml.

A parser raises ValueError with a sentence that says what is allowed; it never quotes a URL, which may hold a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any
from urllib.parse import SplitResult, parse_qsl, urlsplit
from zoneinfo import available_timezones

from pydantic import BeforeValidator, Field

from gateway.postgres_url import parse_postgres_url
from policies.billing.money import CURRENCIES

IPNetwork = IPv4Network | IPv6Network

# SI and IEC prefixes as in IEC 80000-13: KB is 1000 bytes, KiB is 1024.
_SIZE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_DURATION_UNITS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", re.ASCII)
# RFC 1123 section 2.1, with the underscore that container networks put into service names.
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_NETLOC = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(?::[0-9]{1,5})?", re.ASCII)
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,=:@-]+)*", re.ASCII)
_BLANK = re.compile(r"[\x00-\x20\x7f]")
_CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
_SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
_SENTINEL_PARAMETERS = ("sentinel_username", "sentinel_password")
_REDIS_PARAMETERS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_WANTED_URL = "must be a URL such as http://127.0.0.1:9000 or https://api.example.com"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_KEY_PREFIX = re.compile(r"[a-z][a-z0-9]{0,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 lets the kernel pick one; `host` of an IPv6 address has no brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def size_bytes(value: object) -> int:
    """`32KiB`, `20MiB`, `1MB` or a whole number of bytes."""
    wanted = f"must be a size such as 32KiB, 20MiB, 1MB or a number of bytes, got {value!r}"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2].lower() not in _SIZE_UNITS:
        raise ValueError(wanted)
    size = Decimal(match[1]) * _SIZE_UNITS[match[2].lower()]
    if size != int(size):
        raise ValueError(f"must be a whole number of bytes, got {value!r}")
    return int(size)


def duration_seconds(value: object) -> float:
    """`100ms`, `2s`, `10m`, `1h`, `3d` or a number of seconds."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2] not in _DURATION_UNITS:
        raise ValueError(f"must be a duration such as 100ms, 2s, 10m, 1h, 3d or a number of seconds, got {value!r}")
    return float(Decimal(match[1]) * _DURATION_UNITS[match[2]])


def positive_duration_seconds(value: object) -> float:
    """A duration that is more than nothing."""
    seconds = duration_seconds(value)
    if seconds == 0:
        raise ValueError("must be longer than 0")
    return seconds


def on_outage(value: object) -> int | None:
    """`refuse`, or `{float: 50}`: how many credits an account may use while Redis is away."""
    match value:
        case "refuse":
            return None
        case {"float": int(credits), **rest} if not rest and not isinstance(credits, bool) and credits > 0:
            return credits
    raise ValueError(f"must be refuse, or {{float: N}} with N credits, got {value!r}")


def listen_address(value: object) -> Address:
    """`127.0.0.1:8080`, `localhost:0` or `[::1]:8080`."""
    wanted = f"must be host:port such as 127.0.0.1:8080 or [::1]:8080, got {value!r}"
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not colon or not host:
        raise ValueError(wanted)
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ValueError(f"must end in a port from 0 to 65535, got {value!r}")
    return Address(_host(host, wanted), int(port))


def network(value: object) -> IPNetwork:
    """A CIDR such as `10.0.0.0/8` or `fd00::/8`, or one address."""
    if not isinstance(value, str):
        raise ValueError(f"must be a CIDR such as 10.0.0.0/8, got {value!r}")
    try:
        found = ip_network("" if "%" in value else value, strict=False)
    except ValueError as error:
        raise ValueError(f"must be a CIDR such as 10.0.0.0/8 or fd00::/8, got {value!r}") from error
    if "/" in value and ip_address(value.partition("/")[0]) != found.network_address:
        raise ValueError(f"has bits set past its mask, got {value!r}; did you mean {found}?")
    return found


def http_origin(value: object) -> str:
    """`http(s)://host[:port]` and perhaps a plain path, in the canonical spelling of upstreams.

    The rule is that of `parse_target` in `gateway/upstream/address.py`, which this package may not import.
    """
    if not isinstance(value, str) or _BLANK.search(value):
        raise ValueError(_WANTED_URL)
    if re.match(r"https?://[^/?#]*@", value, re.IGNORECASE):
        raise ValueError("must not hold a user or password; send them as a header")
    try:
        url = urlsplit(value)
        host, port = _origin_host(url), url.port
    except ValueError as error:  # UnicodeError is one
        raise ValueError(_WANTED_URL) from error
    if url.scheme not in _DEFAULT_PORTS:
        raise ValueError(_WANTED_URL)
    base_path = url.path.removesuffix("/")
    is_plain = _BASE_PATH.fullmatch(base_path) and not any(part in (".", "..") for part in base_path.split("/"))
    if not is_plain or url.query or url.fragment:
        raise ValueError("must be scheme, host, port and perhaps a plain path, such as https://openrouter.ai/api")
    if port == 0:
        raise ValueError("must name a port from 1 to 65535")
    shown = f"[{host}]" if ":" in host else host
    place = shown if port in (None, _DEFAULT_PORTS[url.scheme]) else f"{shown}:{port}"
    return f"{url.scheme}://{place}{base_path}"


def http_url(value: object) -> str:
    """An absolute http or https URL, without a trailing slash."""
    return _http_url(value).geturl().rstrip("/")


def database_url(value: object) -> str:
    """`embedded`, or a URL with the scheme `postgresql`."""
    if value == "embedded":
        return "embedded"
    scheme, separator, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    if scheme not in ("postgresql", "postgres", "postgresql+asyncpg") or not separator or not rest:
        raise ValueError("must be embedded or a URL such as postgresql://user:password@host:5432/name")
    parse_postgres_url(str(value))
    return f"postgresql://{rest}"


def store_password(value: object) -> str:
    """Any text; digits are no number here."""
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value):
        return str(value)
    raise ValueError("must be a text that is not empty")


def redis_url(value: object) -> str:
    """`embedded`, `redis://…`, `rediss://…` (TLS), or the same for a cluster or sentinels.

    `redis+cluster://host:port,host:port`, `redis+sentinel://host:port,host:port/NAME/0`.
    """
    if value == "embedded":
        return "embedded"
    scheme, separator, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    if scheme not in ("redis", "rediss", *_CLUSTER_SCHEMES, *_SENTINEL_SCHEMES) or not separator or not rest:
        raise ValueError(
            "must be embedded or a URL such as redis://host:6379/0, rediss://…, redis+cluster://host:6379,host:6379 or"
            " redis+sentinel://host:26379,host:26379/NAME"
        )
    parts = urlsplit(f"//{rest}")
    if scheme in _CLUSTER_SCHEMES:
        _check_cluster(parts)
    elif scheme in _SENTINEL_SCHEMES:
        _check_sentinels(parts)
    else:
        _check_redis(parts)
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if scheme in _SENTINEL_SCHEMES and name in _SENTINEL_PARAMETERS:
            continue
        if name not in _REDIS_PARAMETERS:
            raise ValueError(f"the parameter {name} is not supported; {', '.join(_REDIS_PARAMETERS)} are")
        if not scheme.startswith("rediss"):
            raise ValueError(f"the parameter {name} needs {scheme.replace('redis', 'rediss', 1)}://")
    return f"{scheme}://{rest}"


def _check_redis(parts: SplitResult) -> None:
    try:
        readable = parts.port != 0
    except ValueError:
        readable = False
    if not readable or "@" in parts.path or parts.fragment:
        raise ValueError(
            "cannot be read: a password with / # or ? must be percent-encoded (%2F, %23, %3F), or set apart as"
            " redis.password"
        )
    if not re.fullmatch(r"/?[0-9]*", parts.path):
        raise ValueError("must name its database by a number, as redis://host:6379/0")


def _check_cluster(parts: SplitResult) -> None:
    if parts.path not in ("", "/", "/0"):
        raise ValueError("must name no database but 0, which is the only one of a cluster")
    _check_servers(parts, "servers of the cluster")


def _check_sentinels(parts: SplitResult) -> None:
    if not re.fullmatch(r"/[A-Za-z0-9._-]+(/[0-9]*)?", parts.path, re.ASCII):
        raise ValueError("must name the primary and may name a database, as redis+sentinel://host:26379/NAME/0")
    _check_servers(parts, "sentinels")


def _check_servers(parts: SplitResult, what: str) -> None:
    for server in parts.netloc.rpartition("@")[2].split(","):
        if not _NETLOC.fullmatch(server):
            raise ValueError(f"must name some {what} as host:port, separated by commas")


def decimal_amount(value: object) -> Decimal:
    """A non-negative amount, of money or credits, from a number or its text; never through binary fractions."""
    if isinstance(value, int | float | Decimal | str) and not isinstance(value, bool):
        text = f"{value:f}" if isinstance(value, Decimal) else str(value).strip()  # `str` writes 1E-7
        if re.fullmatch(r"\d{1,12}(\.\d{1,12})?", text, re.ASCII):
            return Decimal(text)
        if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
            raise ValueError(f"may have 12 digits before the point and 12 behind it, got {value!r}")
    raise ValueError(f"must be an amount of 0 or more such as 9.99, got {value!r}")


def currency_code(value: object) -> str:
    """A currency in use, ISO 4217."""
    if isinstance(value, str) and value.upper() in CURRENCIES:
        return value.upper()
    raise ValueError(f"must be a currency code of ISO 4217 such as USD, got {value!r}")


def text(value: object) -> str:
    """Text; a bare number becomes its digits, because ids of providers look like numbers."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"must be text, got {value!r}")


def listed(value: object) -> object:
    """Splits text, as a variable holds a list, at commas; passes anything else."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def passed_names(written: object) -> tuple[str, ...]:
    """Names of fields that an upstream gets although clients may not speak for the gateway."""
    names = listed(written)
    for name in names if isinstance(names, list | tuple) else (names,):
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9-]+", name, re.ASCII):
            raise ValueError(f"must be names of fields, of letters, digits and dashes, got {name!r}")
        if name.lower().startswith(("x-gateway-", "x-forwarded-")):
            raise ValueError(f"must not hold {name}, which only the gateway sets")
    return tuple(name.lower() for name in names)  # type: ignore[attr-defined] # checked above


def field_names(value: object) -> list[str]:
    """Names of fields in lower case; one may end in `*`."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise ValueError("must be a list of field names such as [set-cookie, x-ratelimit-*]")
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[!#$%&'+.^_`|~0-9A-Za-z-]+\*?", name, re.ASCII):
            raise ValueError(f"must be field names, which may end in *, got {name!r}")
    return [name.lower() for name in names]


def word(value: object) -> str:
    """A name for machines, fit for labels, paths and variables."""
    if isinstance(value, str) and _WORD.fullmatch(value):
        return value
    raise ValueError(f"must be 1 to 64 letters, digits and . _ -, beginning with a letter or digit, got {value!r}")


def zone_name(value: object) -> str:
    """A name of the time zone database."""
    if isinstance(value, str) and value in available_timezones():
        return value
    raise ValueError(f"must be a time zone of the IANA database such as Europe/Berlin, got {value!r}")


def key_prefix(value: object) -> str:
    """The first characters of API keys, before `_live_`."""
    if isinstance(value, str) and _KEY_PREFIX.fullmatch(value):
        return value
    raise ValueError(f"must be 1 to 16 lower-case letters and digits, beginning with a letter, got {value!r}")


def _host(value: str, wanted: str) -> str:
    if value.startswith("[") and value.endswith("]"):
        try:
            return str(IPv6Address(value[1:-1]))
        except AddressValueError as error:
            raise ValueError(wanted) from error
    if re.fullmatch(r"[\d.]+", value, re.ASCII):
        try:
            return str(IPv4Address(value))
        except AddressValueError as error:
            raise ValueError(wanted) from error
    if not _HOST_NAME.fullmatch(value):
        raise ValueError(wanted)
    return value


def _origin_host(url: SplitResult) -> str:
    if not _NETLOC.fullmatch(url.netloc):
        raise ValueError(_WANTED_URL)
    host = url.hostname or ""
    if ":" in host:
        return str(IPv6Address(host))
    if re.fullmatch(r"[0-9.]+", host, re.ASCII):
        return str(IPv4Address(host))
    name = host.encode("idna").decode("ascii")
    if not _HOST_NAME.fullmatch(name):
        raise ValueError(_WANTED_URL)
    return name


def _http_url(value: object) -> SplitResult:
    wanted = _WANTED_URL
    if not isinstance(value, str) or re.search(r"[\x00-\x20\x7f-\uffff]", value):
        raise ValueError(wanted)
    try:
        url = urlsplit(value)
        _ = url.port  # parsed only when asked for, and refuses then
    except ValueError as error:
        raise ValueError(wanted) from error
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(wanted)
    if url.username is not None or url.password is not None:
        raise ValueError("must not hold a user or password; send them as a header")
    return url


@dataclass(frozen=True, slots=True)
class Kind:
    """How the setting reference names a type; pydantic ignores it."""

    label: str


def about(description: str, *, key: str | None = None) -> Any:
    """The description of a field for the setting reference, and its key in the file unless that is its name."""
    return Field(alias=key, description=description)


# Strict, because a lenient `true` would pass for 1.
Positive = Annotated[int, Field(strict=True, ge=1), Kind("whole number from 1")]
NotNegative = Annotated[int, Field(strict=True, ge=0), Kind("whole number from 0")]
Flag = Annotated[bool, Field(strict=True), Kind("`true` or `false`")]
Size = Annotated[int, BeforeValidator(size_bytes), Kind("size, such as `20MiB`")]
Duration = Annotated[float, BeforeValidator(duration_seconds), Kind("duration, such as `30s`")]
Timeout = Annotated[float, BeforeValidator(positive_duration_seconds), Kind("duration above 0, such as `30s`")]
Listen = Annotated[Address, BeforeValidator(listen_address), Kind("`host:port`")]
Network = Annotated[IPNetwork, BeforeValidator(network), Kind("CIDR, such as `10.0.0.0/8`")]
Amount = Annotated[Decimal, BeforeValidator(decimal_amount), Kind("amount from 0, such as `9.99`")]
Currency = Annotated[str, BeforeValidator(currency_code), Kind("currency of ISO 4217")]
Target = Annotated[str, BeforeValidator(http_origin), Kind("`http(s)://host:port`, perhaps with a path")]
Url = Annotated[str, BeforeValidator(http_url), Kind("http(s) URL")]
Text = Annotated[str, BeforeValidator(text), Kind("text")]
Word = Annotated[str, BeforeValidator(word), Kind("1 to 64 letters, digits and `._-`")]
