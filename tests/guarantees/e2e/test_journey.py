"""The journey of a customer, by the very commands of the README."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.guarantees.e2e.conftest import Running

README = Path(__file__).parents[3] / "README.md"
BOOKED_SECONDS = 15
# curl then fails where the gateway refuses, and each answer is told from the next.
STRICT = 'set -euo pipefail\ncurl() { command curl --fail-with-body --no-progress-meter "$@"; echo; }\n'


def test_every_command_of_the_readme_does_what_it_says(demo: Running) -> None:
    answers = _answers(_ran(_journey(demo)))
    registered, plans, quote, generated, limits, usage = (json.loads(answer) for answer in answers[:6])

    assert registered["status"] == "active"
    assert [plan["id"] for plan in plans["data"]] == ["free", "basic", "pro", "enterprise"]
    assert (quote["admitted"], quote["credits"]) == (True, 2)
    assert len(generated["descriptions"]) == 2
    assert limits["plan"] == "free"
    assert limits["credits"]["remaining"] == 8
    assert {each["name"]: each["remaining"] for each in limits["limits"]} == {"minute": 4, "hour": 49}
    assert usage["data"] == [] or usage["data"][0]["credits_charged"] == 2
    assert answers[6].startswith("id,created_at,kind,amount,balance_after")
    assert '"cancel_at_period_end":true' in answers[-1]


async def test_the_call_of_the_journey_is_in_usage_and_ledger(demo: Running) -> None:
    script = _journey(demo).partition("curl -s -X DELETE")[0] + 'echo "the token is $token"\n'
    token = (await asyncio.to_thread(_ran, script)).rpartition("the token is ")[2].strip()
    async with httpx.AsyncClient(base_url=demo.public_url, headers={"authorization": f"Bearer {token}"}) as client:
        async with asyncio.timeout(BOOKED_SECONDS):
            while not (calls := (await client.get("/me/usage")).json()["data"]):  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.05)
        entries = (await client.get("/me/ledger")).json()["data"]

    (call,) = calls
    assert (call["endpoint"], call["computed"]) == ("generate", "1 credit per item x 2 items, at least 1")
    assert call["balance_after"] == 8
    assert [(entry["kind"], entry["amount"], entry["balance_after"]) for entry in entries] == [
        ("usage", -2, 8),
        ("grant", 10, 10),
    ]


def _journey(demo: Running) -> str:
    """The block of the README, for this gateway and a customer of its own."""
    (block,) = re.findall(r"## Accounts\n.*?```bash\n(.*?)```", README.read_text(), re.DOTALL)
    assert "gateway=http://127.0.0.1:8080\n" in block
    assert "ada@example.com" in block
    block = block.replace("http://127.0.0.1:8080", demo.public_url).replace("ada@", f"{uuid4().hex}@")
    return str(block)


def _ran(script: str) -> str:
    done = subprocess.run(["bash", "-c", STRICT + script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def _answers(output: str) -> list[Any]:
    """What each command printed; answers without a body, and what went into a variable, leave nothing."""
    return [line for line in output.split("\n") if line.strip()]
