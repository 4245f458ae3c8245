"""One row of each API through `gateway serve` as a process of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.guarantees.ai.table import ROWS, Row
from tests.guarantees.ai.test_table import answer
from tests.guarantees.simulation.served_gateway import PLAN, Served, serving
from tests.proxy import upstream as upstreams
from tests.proxy.upstream import Exchange

NAMES = (
    "chat",
    "stream, not asked, LF",
    "response stream",
    "embeddings, gzip",
    "message stream, LF",
    "gemini array",
    "converse frames",
    "ollama",
    "tool",
)
SAMPLE = [row for row in ROWS if row.name in NAMES]


async def test_served_process_passes_and_charges_each_api(
    tmp_path: Path, own_database_url: str, redis_url: str
) -> None:
    async with upstreams.running() as upstream:
        by_number = {str(number): row for number, row in enumerate(SAMPLE)}

        async def answer_by_number(exchange: Exchange) -> None:
            await answer(exchange, by_number[exchange["x-request-id"]], asyncio.Event())

        upstream.answer = answer_by_number
        written = (Path(__file__).parent / "gateway.yaml").read_text().replace("http://upstream.test", upstream.url)
        document = f"{written}\nplans: [{PLAN}]\n"
        async with serving(tmp_path, document, database_url=own_database_url, redis_url=redis_url) as served:
            for number, row in by_number.items():
                assert await _received(served, row, number) == row.passed
            assert await served.stop() == 0
            rows = await served.rows()
    assert len(SAMPLE) == len(NAMES)
    assert sorted(rows) == [(number, row.outcome, row.charge) for number, row in by_number.items()]


async def _received(served: Served, row: Row, number: str) -> bytes:
    headers = {"x-api-key": served.key, "x-request-id": number, "content-type": "application/json"}
    async with (
        httpx.AsyncClient(base_url=served.public_url, trust_env=False, timeout=30) as http,
        http.stream("POST", row.path, content=row.request, headers=headers) as response,
    ):
        return b"".join([piece async for piece in response.aiter_raw()])
