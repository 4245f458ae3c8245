"""What is counted of each wire form, by the gateway and by what one would use instead: right, wrong, or not at all.

`python -m benchmarks.metering [--only gateway litellm portkey agent_metering]`. The others are installed from PyPI and
npm into build/peers. All stand before one upstream that answers in the forms of the providers. Each form is one call.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.machine import describe
from benchmarks.metering.contenders import CONTENDERS, Contender
from benchmarks.metering.upstream import request, serve
from benchmarks.metering.wire_forms import WIRE_FORMS, WireForm
from benchmarks.peers.contender import PeerUnavailableError

_LONG = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.metering", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    given = parser.parse_args()
    columns: dict[str, list[str]] = {}
    with _upstream() as port:
        for name in given.only:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    with CONTENDERS[name](Path(folder), port) as contender:
                        columns[contender.name] = [_verdict(contender, number) for number in range(len(WIRE_FORMS))]
                except PeerUnavailableError as missing:
                    print(f"{name} is not compared: {missing}", file=sys.stderr)
    _report(columns)


def _verdict(contender: Contender, number: int) -> str:
    """Calls once; says what was counted."""
    form = WIRE_FORMS[number]
    prefix = contender.prefixes.get(form.api)
    if prefix is None:
        return "not served"
    path, body = request(number)
    fields = {**contender.fields, **contender.fields_by_api.get(form.api, {})}
    fields |= {"content-type": "application/json", "accept-encoding": form.encoding}
    try:
        with httpx.stream("POST", contender.url + prefix + path, content=body, headers=fields, timeout=_LONG) as answer:
            text = "" if form.leaves and next(answer.iter_raw(), b"") else answer.read().decode(errors="replace")
    except httpx.HTTPError as error:
        return f"failed: {type(error).__name__}"
    counted = contender.wait_for_counts()
    if answer.status_code != 200 and (form.input or answer.status_code < 500):
        print(f"{contender.name}, {form.name}: {answer.status_code} {text[:300]}", file=sys.stderr)
        return f"failed: {answer.status_code}"
    return _compared(form, counted)


def _compared(form: WireForm, counted: list[tuple[int, int]]) -> str:
    """Several reports of one call are what a bill would add up."""
    if not counted:
        return "not at all" if form.input else "right"
    total = sum(pair[0] for pair in counted), sum(pair[1] for pair in counted)
    return "right" if total == (form.input, form.output) else f"wrong: {total[0]:,} + {total[1]:,}"


def _report(columns: dict[str, list[str]]) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{describe()}, {today}\n")
    print(f"| wire form | input + output | {' | '.join(columns)} |")
    print(f"|---|---|{'---|' * len(columns)}")
    for number, form in enumerate(WIRE_FORMS):
        verdicts = " | ".join(column[number] for column in columns.values())
        print(f"| {form.name} | {form.input:,} + {form.output:,} | {verdicts} |")
    right = " | ".join(f"**{column.count('right')} of {len(column)}**" for column in columns.values())
    print(f"| counted right | | {right} |")


@contextmanager
def _upstream() -> Iterator[int]:
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(serve())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


if __name__ == "__main__":
    main()
