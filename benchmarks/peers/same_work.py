"""nginx with Lua that does the gateway's work of a metered call, but for the row in PostgreSQL: `same_work.lua`.

Redis runs the gateway's own two scripts, so windows, hold and journal entry are the same to the byte. Each call gets
the fields that ours gets on both sides, counts into histograms and has a line in the access log.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from uuid import uuid4

import redis

from benchmarks.machine import Family
from benchmarks.peers import nginx
from benchmarks.peers.contender import Contender, free_port, running
from gateway.embedded.binaries import find_valkey
from gateway.meter.client.client import RedisClient
from gateway.meter.meter import Meter
from gateway.meter.scripts import ADMIT, SCRIPTS, SETTLE
from policies.access.limits import Limits, policy_field, remaining_template
from policies.usage import records

_LUA = Path(__file__).with_suffix(".lua")
_KEYS = {"ok": "key-of-a-customer", "limited": "key-at-its-limit", "broke": "key-without-credits", "unknown": "nobody"}
_PLENTY = 10**8
_BALANCES = {"ok": 10**12, "limited": 10**12, "broke": 0}
_MINUTES = {"ok": _PLENTY, "limited": 0, "broke": _PLENTY}

# `decide` gives a list, of which this client would read each element by itself.
_IN_ONE_LINE = "local function decide()\n{source}\nend\nreturn table.concat(decide(), ' ')"

_HTTP = """
lua_package_path "{folder}/?.lua;;";
init_by_lua_block {{ metered = require "same_work" }}
init_worker_by_lua_block {{ metered.start() }}
log_format line escape=json '{{"event":"request","at":$msec,"request_id":"$request_id","endpoint":"call",'
  '"method":"$request_method","status":$status,"ms":$request_time,"key":"$key_id"}}';
upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
server {{ listen 127.0.0.1:{port} backlog=16384;
  access_log {folder}/access.log line buffer=64k flush=1s;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header X-API-Key "";
  proxy_set_header Authorization ""; proxy_set_header Host $proxy_host; proxy_set_header X-Request-Id $request_id;
  proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Forwarded-Host $http_host; proxy_set_header Via "1.1 gateway";
  proxy_set_header traceparent $trace; proxy_set_header X-Gateway-User $user;
  proxy_set_header X-Gateway-Key $key_id; proxy_set_header X-Gateway-Plan ok; proxy_set_header X-Gateway-Features "";
  location / {{ set $trace ""; set $user ""; set $key_id ""; {handlers} }}
  location /upstream/ {{ internal; proxy_pass http://up/; }} }}"""
_BEFORE = "access_by_lua_block { metered.access() } content_by_lua_block { metered.content() }"
_LATER = """access_by_lua_block { metered.access_later() } header_filter_by_lua_block { metered.header_later() }
    log_by_lua_block { metered.log_later() } proxy_pass http://up;"""


@contextmanager
def before_the_answer(folder: Path, upstream_port: int) -> Iterator[Contender]:
    """Settles each call before its answer is sent, as the gateway does."""
    with _start(folder, upstream_port, name="nginx + Lua, our work", handlers=_BEFORE) as contender:
        yield contender


@contextmanager
def behind_the_answer(folder: Path, upstream_port: int) -> Iterator[Contender]:
    """Settles in batches of 10 ms; of a killed worker the last batch is charged nothing."""
    with _start(folder, upstream_port, name="nginx + Lua, settling later", handlers=_LATER) as contender:
        yield contender


@contextmanager
def _start(folder: Path, upstream_port: int, *, name: str, handlers: str) -> Iterator[Contender]:
    modules = nginx.lua_modules()
    redis_port, port = free_port(), free_port()
    store = [str(find_valkey()), "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(folder)]
    store += ["--appendonly", "yes", "--appendfsync", "no", "--save", ""]
    with running(store, redis_port, folder / "same-valkey.log") as valkey:
        admit, settle = _load_scripts(redis_port)
        with redirect_stdout(sys.stderr):  # the report has the other one for itself
            (folder / "callers.lua").write_text(asyncio.run(_load_accounts(redis_port)))
        later = "true" if handlers == _LATER else "false"
        columns = records.route_columns(endpoint="call", method="GET", path="/call", usage_type="call")
        (folder / "settings.lua").write_text(
            f'return {{ redis = {redis_port}, admit = "{admit}", settle = "{settle}", settles_later = {later}, '
            f"route_columns = {_lua(columns)} }}\n"
        )
        shutil.copy(_LUA, folder)
        http = _HTTP.format(folder=folder, upstream=upstream_port, port=port, handlers=handlers)
        with nginx.started(folder, "same", http, port=port, modules=modules) as processes:
            yield Contender(
                name,
                f"http://127.0.0.1:{port}",
                processes,
                frozenset({"small JSON", "refused 401", "refused 429", "refused 402"}),
                behind={"Valkey": Family.of(valkey.pid)},
                keys=_KEYS,
            )


def _load_scripts(port: int) -> tuple[str, str]:
    with redis.Redis(port=port) as client:
        admit, settle = (client.script_load(_IN_ONE_LINE.format(source=each.source)) for each in (ADMIT, SETTLE))
    return admit, settle


async def _load_accounts(port: int) -> str:
    """The callers by the digest of their keys, as a module of Lua; their accounts are loaded."""
    client = RedisClient(f"redis://127.0.0.1:{port}/0", timeout_seconds=5, scripts=SCRIPTS)
    await client.open()
    meter = Meter(client, partitions=64, owner="peer")
    lines = []
    for name, balance in _BALANCES.items():
        keys, key_id, limits = meter.keys(uuid4()), uuid4(), Limits((_MINUTES[name], _PLENTY, _PLENTY), None)
        await meter.load(keys, account_version=1, credit_seq=0, balance=balance, catalogue_version=1)
        caller = {
            "account": keys.account.decode(),
            "catalogue": keys.catalogue.decode(),
            "holds": keys.holds.decode(),
            "journal": keys.journal.decode(),
            "columns": records.caller_columns(
                user_id=keys.account_id, api_key_id=key_id, subscription_id=uuid4(), plan_id=name
            ),
            "user": str(keys.account_id),
            "key": str(key_id),
            "owner": "peer\t",
            "epoch": await meter.epoch(keys.partition),
            "policy": policy_field(limits).decode(),
            "ratelimit": remaining_template(limits).decode(),
            **dict(zip(("minute", "hour", "day"), limits.per_window, strict=True)),
        }
        digest = base64.b64encode(hmac.digest(b"pepper", _KEYS[name].encode(), "sha1")).decode()
        lines.append(
            f'["{digest}"] = {{ {", ".join(f"{field} = {_lua(value)}" for field, value in caller.items())} }},'
        )
    await client.close()
    return "return {\n" + "\n".join(lines) + "\n}\n"


def _lua(value: object) -> str:
    """A number or text of printable ASCII and tabs as Lua writes it."""
    return str(value) if isinstance(value, int) else "'" + str(value).replace("\t", "\\t").replace("'", "\\'") + "'"
