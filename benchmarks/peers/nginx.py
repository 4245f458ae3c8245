"""nginx three times: the upstream of every contender, bare forwarding, and a gateway written by hand in Lua."""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from benchmarks.machine import Family, need
from benchmarks.peers.contender import Contender, PeerUnavailableError, free_port, running
from gateway.embedded.binaries import find_valkey

MODULES = Path("/usr/lib/nginx/modules")

_CONFIG = """
daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/{name}.log warn;
{modules}
events {{ worker_connections 16384; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000000; client_max_body_size 64m; client_body_buffer_size 2m;
  {http}
}}
"""

_ANSWER = {"ok": True, "items": [1, 2, 3]}
_CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "static",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
}

# An upload is read whole before the answer: by nginx's own buffering, on the way to the server behind it.
_UPSTREAM = """
server {{ listen 127.0.0.1:{port} backlog=16384; default_type application/json;
  location / {{ return 200 '{answer}'; }}
  location = /v1/chat/completions {{ return 200 '{chat}'; }}
  location = /upload {{ proxy_pass http://127.0.0.1:{port}/; proxy_pass_request_body off;
                        proxy_set_header Content-Length ""; proxy_method GET; }}
  location = /stream {{ default_type text/event-stream; alias {folder}/events; }}
}}"""

_PROXY = """
upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
server {{ listen 127.0.0.1:{port} backlog=16384;
  location / {{ {access} proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
                proxy_request_buffering off; }} }}"""

# Admission as one writes it by hand: three fixed windows and a balance in one script, no hold, no record of the call.
_SCRIPT = """
local account = redis.call('HMGET', KEYS[1], 'credits', 'minute', 'hour', 'day')
if not account[1] then return 401 end
local now = tonumber(redis.call('TIME')[1])
local used = {}
for n, span in ipairs({60, 3600, 86400}) do
  local window = 'w' .. n .. ':' .. math.floor(now / span)
  used[n] = window
  if tonumber(redis.call('HGET', KEYS[1], window) or 0) >= tonumber(account[n + 1]) then return 429 end
end
if tonumber(account[1]) < 1 then return 402 end
redis.call('HINCRBY', KEYS[1], 'credits', -1)
for n = 1, 3 do redis.call('HINCRBY', KEYS[1], used[n], 1) end
return 200
"""
_LUA = """
access_by_lua_block {{
  local key = ngx.var.http_x_api_key
  if not key then return ngx.exit(401) end
  local digest = ngx.encode_base64(ngx.hmac_sha1("pepper", key))
  local store = require("nginx.redis"):new()
  store:set_timeout(1000)
  if not store:connect("127.0.0.1", {redis}) then return ngx.exit(503) end
  local verdict = store:evalsha("{sha}", 1, "k:" .. digest)
  store:set_keepalive(60000, 256)
  if verdict ~= 200 then return ngx.exit(tonumber(verdict) or 503) end
}}"""

_KEYS = {"ok": "key-of-a-customer", "limited": "key-at-its-limit", "broke": "key-without-credits", "unknown": "nobody"}
_FORWARDS = {"small JSON", "1 MB upload", "100 events", "1,000 idle connections"}


@contextmanager
def upstream(folder: Path) -> Iterator[int]:
    """The server that all forward to; gives its port."""
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": "word "}}]})
    last = json.dumps({"choices": [], "usage": {"total_tokens": 110}})
    (folder / "events").write_text("".join(f"data: {each}\n\n" for each in [*[event] * 99, last]))
    port = free_port()
    http = _UPSTREAM.format(port=port, folder=folder, answer=json.dumps(_ANSWER), chat=json.dumps(_CHAT))
    with started(folder, "upstream", http, port=port):
        yield port


@contextmanager
def bare(folder: Path, upstream_port: int) -> Iterator[Contender]:
    """proxy_pass and nothing else."""
    port = free_port()
    http = _PROXY.format(port=port, upstream=upstream_port, access="")
    with started(folder, "bare", http, port=port) as processes:
        yield Contender("nginx proxy_pass", f"http://127.0.0.1:{port}", processes, frozenset(_FORWARDS))


@contextmanager
def lua(folder: Path, upstream_port: int) -> Iterator[Contender]:
    """nginx with Lua: key digest and one Redis script per call, then proxy_pass."""
    modules = lua_modules()
    redis_port, port = free_port(), free_port()
    store = [str(find_valkey()), "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with running([*store, "--appendonly", "yes", "--save", ""], redis_port, folder / "lua-valkey.log") as valkey:
        with redis.Redis(port=redis_port) as client:
            sha = client.script_load(_SCRIPT)
            _seed(client)
        http = _PROXY.format(port=port, upstream=upstream_port, access=_LUA.format(redis=redis_port, sha=sha))
        with started(folder, "lua", http, port=port, modules=modules) as processes:
            refused = {"refused 401", "refused 429", "refused 402"}
            yield Contender(
                "nginx + Lua + Redis",
                f"http://127.0.0.1:{port}",
                processes,
                frozenset(_FORWARDS | refused),
                behind={"Valkey": Family.of(valkey.pid)},
                keys=_KEYS,
            )


def lua_modules() -> str:
    """The directives that load what Lua needs. Raises PeerUnavailableError."""
    need("nginx", "nginx-light")
    for module, package in (("ngx_http_lua_module", "libnginx-mod-http-lua"), ("redis", "lua-nginx-redis")):
        if not (MODULES / f"{module}.so").exists() and not Path("/usr/share/lua/5.1/nginx/redis.lua").exists():
            need(package, package)
    if not (MODULES / "ngx_http_lua_module.so").exists():
        raise PeerUnavailableError("it needs Debian's libnginx-mod-http-lua and lua-nginx-redis")
    return "".join(f"load_module {MODULES}/{name}.so; " for name in ("ndk_http_module", "ngx_http_lua_module"))


def _seed(client: redis.Redis) -> None:
    plenty = 10**12
    accounts: dict[str, dict[Any, int]] = {
        "ok": {"credits": plenty, "minute": plenty, "hour": plenty, "day": plenty},
        "limited": {"credits": plenty, "minute": 0, "hour": plenty, "day": plenty},
        "broke": {"credits": 0, "minute": plenty, "hour": plenty, "day": plenty},
    }
    for name, account in accounts.items():
        digest = base64.b64encode(hmac.digest(b"pepper", _KEYS[name].encode(), "sha1")).decode()
        client.hset(f"k:{digest}", mapping=account)


@contextmanager
def started(folder: Path, name: str, http: str, *, port: int, modules: str = "") -> Iterator[Family]:
    program = need("nginx", "nginx-light")
    if program is None:
        raise PeerUnavailableError("it needs nginx (Debian: nginx-light)")
    config = folder / f"{name}.conf"
    # Started by root, its workers would be another user, who cannot read the folder.
    modules += "user root;" if os.geteuid() == 0 else ""
    config.write_text(_CONFIG.format(folder=folder, name=name, http=http, modules=modules))
    command = [program, "-c", str(config), "-p", str(folder)]
    with running(command, port, folder / f"{name}.out") as process:
        yield Family.of(process.pid)
