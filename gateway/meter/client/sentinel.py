"""Redis Sentinel: its URL, and which server is the primary now.

Sentinels may disagree for a while: one that was cut off still names the former primary. Each answer carries the
configuration epoch of its failover, and the greatest epoch wins, as among the sentinels themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from redis.exceptions import RedisError, ResponseError

from gateway.meter.client.errors import MeterUnavailable, UnsupportedServer
from gateway.meter.client.server import CONNECT_TIMEOUT_SECONDS, ask, dial, unreachable
from gateway.meter.client.topology import Address, parse_address

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
DEFAULT_PORT = 26379
LATER_SECONDS = 0.2  # after the first answer: what a sentinel may add that has seen a later failover
_LOGIN_PARAMETERS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """`redis+sentinel://user:password@host:port,host:port/NAME/DATABASE?option=value`.

    The hosts are sentinels, NAME is what they call the primary, and the login and the database are those of the
    primary. `sentinel_username` and `sentinel_password` log in to the sentinels.
    """

    scheme: str
    login: str
    sentinels: tuple[Address, ...]
    primary: str
    database: str
    query: str
    sentinel_login: str

    @classmethod
    def parse(cls, url: str) -> SentinelUrl | None:
        """None for any other URL. Raises ValueError with the reason, without the password."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            return None
        login, at, hosts = parts.netloc.rpartition("@")
        primary, _, database = parts.path.strip("/").partition("/")
        if not primary or not (database or "0").isdecimal():
            raise ValueError("must name the primary, and may name a database, as redis+sentinel://host:26379/NAME/0")
        parameters = parse_qsl(parts.query)
        user, password = (dict(parameters).get(name, "") for name in _LOGIN_PARAMETERS)
        query = urlencode([each for each in parameters if each[0] not in _LOGIN_PARAMETERS])
        return cls(
            SCHEMES[parts.scheme],
            login + at,
            tuple(parse_address(host, DEFAULT_PORT) for host in hosts.split(",")),
            primary,
            database or "0",
            f"?{query}" if query else "",
            f"{quote(user, safe='')}:{quote(password, safe='')}@" if password else "",
        )

    async def locate(self) -> str:
        """The URL of the primary, by the sentinels that answer. Raises MeterUnavailable, UnsupportedServer."""
        address = await _find_primary([self._url_of(each) for each in self.sentinels], self.primary)
        return f"{self.scheme}://{self.login}{address}/{self.database}{self.query}"

    def _url_of(self, sentinel: Address) -> str:
        return f"{self.scheme}://{self.sentinel_login}{sentinel}{self.query}"


async def _find_primary(sentinels: Sequence[str], name: str) -> Address:
    waiting = {asyncio.ensure_future(_ask_sentinel(each, name)) for each in sentinels}
    answers: list[tuple[int, Address]] = []
    failure: Exception = MeterUnavailable("no sentinel is named")
    try:
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=LATER_SECONDS if answers else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for each in done:
                try:
                    answers.append(each.result())
                except (MeterUnavailable, UnsupportedServer) as error:
                    failure = error
    finally:
        for each in waiting:
            each.cancel()
    if not answers:
        raise failure
    return max(answers)[1]


async def _ask_sentinel(url: str, name: str) -> tuple[int, Address]:
    """The configuration epoch and the address of the primary, as one sentinel knows them."""
    connection = await dial(url)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            return _primary_of(await ask(connection, "SENTINEL", "MASTER", name))
    except ResponseError as error:
        raise UnsupportedServer(f"no primary is known as {name}: {error}") from error
    except (RedisError, OSError, EOFError, ValueError) as error:
        raise unreachable(error) from error
    finally:
        await connection.disconnect(nowait=True)


def _primary_of(reply: Sequence[Any]) -> tuple[int, Address]:
    """From the names and values that SENTINEL MASTER lists."""
    fields = {name.decode(): value.decode() for name, value in zip(reply[::2], reply[1::2], strict=True)}
    return int(fields["config-epoch"]), Address(fields["ip"], int(fields["port"]))
