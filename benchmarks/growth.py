"""What a call costs as things grow: accounts, routes, models, open connections, rows of usage.

`python -m benchmarks.growth [--only accounts routes models connections rows] [--accounts 1000000] [--rows 10000000]`.
Each size is measured beside the smallest, in interleaved rounds of one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import redis

from benchmarks.accounts import add_accounts
from benchmarks.machine import allow_many_files, describe
from benchmarks.peers import nginx, ours
from benchmarks.peers.contender import Contender
from benchmarks.peers.load import Case, Sample, drive
from gateway.meter.keys import account_keys, partition_of

ROUNDS = 5
SECONDS = 4
# So many keys call in turn; the accounts beyond them stand in both stores and are silent.
CALLING = 1_000
# In this time each of them has called, and is in the gateway's cache and in Redis.
WARMING_SECONDS = 20
PARTITIONS = 64

_CALL = Case("small JSON", "/call")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=_KINDS, default=list(_KINDS))
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    given = parser.parse_args()
    allow_many_files()
    print(f"{describe()}; medians of {ROUNDS} interleaved rounds of {SECONDS} s\n")
    print("| grown | requests/s | p99 ms | CPU µs | against the smallest (spread) | Valkey µs | writer µs | MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in given.only:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            upstream = stack.enter_context(nginx.upstream(folder))
            _measure(_KINDS[kind](given, folder, upstream, stack), folder)


def _measure(sizes: list[tuple[Contender, Case]], folder: Path) -> None:
    samples: dict[str, list[Sample]] = {contender.name: [] for contender, _ in sizes}
    for number in range(ROUNDS + 1):
        for contender, case in sizes:
            sample = drive(contender, case, folder, seconds=SECONDS)
            if number:
                samples[contender.name].append(sample)
    smallest = next(iter(samples.values()))
    for name, measured in samples.items():
        ratios = [one.cpu_us / base.cpu_us for one, base in zip(measured, smallest, strict=True)]
        print(
            f"| {name} | {_median(measured, lambda s: s.requests_per_second):,.0f} "
            f"| {_median(measured, lambda s: s.p99_ms):.2f} | {_median(measured, lambda s: s.cpu_us):.1f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {_median(measured, lambda s: s.behind_us['Valkey']):.1f} "
            f"| {_median(measured, lambda s: s.behind_us['usage writer']):.1f} "
            f"| {_median(measured, lambda s: s.resident_mib):.0f} |",
            flush=True,
        )


def _median(measured: list[Sample], of: Callable[[Sample], float]) -> float:
    return statistics.median(map(of, measured))


def _accounts(given: argparse.Namespace, folder: Path, upstream: int, stack: ExitStack) -> list[tuple[Contender, Case]]:
    """One that calls all the time; then as many as call in turn, each with fields of its own; then as many as given."""
    one, _ = stack.enter_context(_gateway(folder / "one", upstream, "1 account"))
    return [
        (one, _CALL),
        *(_in_turn(folder / str(count), upstream, stack, accounts=count) for count in (CALLING, given.accounts)),
    ]


def _in_turn(folder: Path, upstream: int, stack: ExitStack, *, accounts: int) -> tuple[Contender, Case]:
    contender, data = stack.enter_context(_gateway(folder, upstream, f"{accounts:,} accounts"))
    drive(contender, _CALL, folder, seconds=SECONDS)
    listed = folder / "keys"
    listed.write_text("\n".join(asyncio.run(_make_accounts(data, accounts))))
    case = replace(_CALL, keys_file=str(listed))
    drive(contender, case, folder, seconds=WARMING_SECONDS)
    return contender, case


def _routes(_: argparse.Namespace, folder: Path, upstream: int, stack: ExitStack) -> list[tuple[Contender, Case]]:
    return [
        (stack.enter_context(_gateway(folder / str(count), upstream, name, more=_more_routes(count)))[0], _CALL)
        for count, name in ((count, f"{count:,} routes more") for count in (0, 100, 5000))
    ]


def _more_routes(count: int) -> str:
    return "".join(
        f"  - {{name: more-{n}, match: {{path: /more/{n}/**}}, upstream: static, usage_type: call,"
        " price: {credits: 1}}\n"
        for n in range(count)
    )


def _models(_: argparse.Namespace, folder: Path, upstream: int, stack: ExitStack) -> list[tuple[Contender, Case]]:
    """A completion whose model is the last of the list, after patterns of which none fits."""
    asked = json.dumps({"model": "static", "max_tokens": 500, "messages": [{"role": "user", "content": "hi"}]})
    case = Case("chat completion", "/priced/v1/chat/completions", method="POST", json_body=asked)
    gateways = {count: _list_of_models(count) for count in (1, 50, 500)}
    return [
        (stack.enter_context(_gateway(folder / str(count), upstream, f"{count:,} models", more=more))[0], case)
        for count, more in gateways.items()
    ]


def _list_of_models(count: int) -> str:
    rates = "{input: 2600000, cached_input: 260000, output: 15600000, max_output: 128000}"
    names = [f'"model-{n}-*"' if n % 2 else f"model-{n}" for n in range(count - 1)]
    listed = "".join(f"      {name}: {rates}\n" for name in (*names, "static"))
    return (
        "  - {name: priced, match: {path: /priced/**}, strip_prefix: /priced, upstream: static, price: openai}\n"
        f"prices:\n  openai:\n    reader: openai\n    per: 1M tokens\n    hold: estimate\n    models:\n{listed}"
    )


def _connections(_: argparse.Namespace, folder: Path, upstream: int, stack: ExitStack) -> list[tuple[Contender, Case]]:
    from_one_address = ", max_connections_per_address: 0"
    contender, _data = stack.enter_context(_gateway(folder / "connections", upstream, "", more_server=from_one_address))
    return [
        (replace(contender, name=f"{idle:,} idle connections"), replace(_CALL, idle=idle)) for idle in (0, 1_000, 9_800)
    ]


def _rows(given: argparse.Namespace, folder: Path, upstream: int, stack: ExitStack) -> list[tuple[Contender, Case]]:
    few = stack.enter_context(_gateway(folder / "few", upstream, "no rows"))
    many = stack.enter_context(_gateway(folder / "rows", upstream, f"{given.rows:,} rows"))
    asyncio.run(_make_rows(many[1]["database_url"], given.rows))
    return [(few[0], _CALL), (many[0], _CALL)]


_KINDS = {
    "accounts": _accounts,
    "routes": _routes,
    "models": _models,
    "connections": _connections,
    "rows": _rows,
}


@contextmanager
def _gateway(
    folder: Path, upstream: int, name: str, *, more: str = "", more_server: str = ""
) -> Iterator[tuple[Contender, dict[str, str]]]:
    folder.mkdir()
    with ours.serving(folder, upstream, more_routes=more, more_server=more_server) as (contender, printed):
        yield replace(contender, name=name), {**printed, "data_dir": str(ours.data_dir(folder))}


async def _make_accounts(data: dict[str, str], count: int) -> list[str]:
    """Accounts on the plan of the first one, all in PostgreSQL and, if silent, in Redis; gives the keys that call."""
    users = [uuid4() for _ in range(count)]
    connection = await asyncpg.connect(data["database_url"])
    try:
        keys = await add_accounts(connection, users, pepper=_pepper(Path(data["data_dir"])), calling=CALLING)
    finally:
        await connection.close()
    _stand_silent(data["redis_url"], users[CALLING:])
    return keys


def _stand_silent(url: str, users: Sequence[UUID]) -> None:
    """Copies a loaded account to all of these, which never call: they only take room."""
    with _redis(url) as client:
        fields = client.hgetall(next(iter(client.scan_iter("gw:{p*}:a:*", count=1000))))
        pipe = client.pipeline(transaction=False)
        for number, user in enumerate(users):
            pipe.hset(account_keys(user, partition=partition_of(user, PARTITIONS)).account, mapping=fields)
            if number % 5000 == 4999:
                pipe.execute()
        pipe.execute()


def _redis(url: str) -> redis.Redis:
    address = urlsplit(url)
    if address.scheme == "unix":
        return redis.Redis(unix_socket_path=address.path)
    return redis.Redis.from_url(url)


async def _make_rows(url: str, count: int) -> None:
    """Usage of this month so far, by the accounts that there are in turn."""
    connection = await asyncpg.connect(url)
    try:
        for start in range(0, count, 1_000_000):
            await connection.execute(
                """INSERT INTO usage_tracking (request_id, created_at, user_id, endpoint, method, path, usage_type,
                                               outcome, status_code, credits_charged)
                   SELECT gen_random_uuid(), month + (now() - month) * (n::float8 / $3), ids[1 + n % cardinality(ids)],
                          'call', 'GET', '/call', 'call', 'succeeded', 200, 1
                     FROM generate_series($1::bigint, $2::bigint) n,
                          (SELECT array_agg(id) AS ids, date_trunc('month', now()) AS month FROM users) known""",
                start,
                min(start + 1_000_000, count) - 1,
                float(count),
                timeout=600,
            )
    finally:
        await connection.close()


def _pepper(data_dir: Path) -> bytes:
    stored = json.loads((data_dir / "secrets.json").read_text())
    found = next((value for name, value in stored.items() if "pepper" in name.lower()), None)
    if found is None:
        sys.exit(f"{data_dir}/secrets.json names no pepper")
    return str(found).encode()


if __name__ == "__main__":
    main()
