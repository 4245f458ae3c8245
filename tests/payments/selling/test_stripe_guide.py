"""The guide from an empty Stripe account: its commands run as they stand, in one shell, beside the fake Stripe."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from gateway.cli.installation import seed
from gateway.config import Config, load
from gateway.config.summary import describe
from gateway.ledger.db.session import Database
from gateway.payments.stripe.adapter import Stripe
from gateway.payments.stripe.events import EVENT_TYPES
from gateway.payments.stripe.permissions import PERMISSIONS
from gateway.runtime.payments import build_checkout_service
from gateway.workers.billing.webhook_processor import WebhookProcessor
from tests.api.conftest import TOKEN, admin_app
from tests.payments.conftest import STRIPE_SECRETS, stripe_provider
from tests.payments.fake_stripe import FakeStripe, signed
from tests.payments.payment_stack import account_app
from tests.support.polling import eventually

GUIDE = (Path(__file__).parents[3] / "docs/guides/stripe.md").read_text("utf-8")
STRICT = 'set -euo pipefail\ncurl() { command curl --fail --show-error --no-progress-meter "$@"; echo; }\n'
SECRETS = dict.fromkeys(("GATEWAY_ADMIN_TOKEN", "GATEWAY_KEY_PEPPER", "GATEWAY_JWT_SECRET"), "a" * 32) | {
    "OPENAI_API_KEY": "sk-example",
    "STRIPE_SECRET_KEY": "rk_test_x",
}
PATIENCE_SECONDS = 30


def blocks(language: str) -> list[str]:
    """The code blocks of the guide, in order; those of a list without its indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", GUIDE, re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in block.split("\n")) for indent, block in found]


@dataclass
class Shell:
    """One shell, in which what a block defines is there for the next."""

    process: asyncio.subprocess.Process
    places: dict[str, str]

    async def run(self, block: str) -> list[str]:
        """The lines that the block prints. Every command in it succeeds."""
        for documented, actual in self.places.items():
            block = block.replace(documented, actual)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{block}\necho the block ends\n".encode())
        lines: list[str] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (line := (await self.process.stdout.readline()).decode()) != "the block ends\n":
                assert line, lines
                lines.append(line.strip())
        return [line for line in lines if line]

    async def read(self, block: str) -> list[Any]:
        return [json.loads(line) for line in await self.run(block)]


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """The address at which the application answers."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off", ws="none"))
    running = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


@pytest.fixture
async def shell() -> AsyncIterator[Shell]:
    pipe = asyncio.subprocess.PIPE
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec("bash", stdin=pipe, stdout=pipe, env=os.environ | {"PATH": places})
    given = Shell(process, {})
    await given.run(f"{STRICT}export STRIPE_KEY=sk_test_owner GATEWAY_ADMIN_TOKEN={TOKEN}")
    yield given
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() == 0


@pytest.fixture
async def stripe_of_guide() -> AsyncIterator[tuple[FakeStripe, Stripe]]:
    world = FakeStripe({})
    provider = stripe_provider(world, key=SECRETS["STRIPE_SECRET_KEY"])
    yield world, provider
    await provider.close()


def configured(ids: list[str], folder: Path, **secrets: str) -> Config:
    (written,) = blocks("yaml")
    for documented, actual in zip(("price_of_maker", "price_of_studio", "price_of_pack"), ids, strict=True):
        written = written.replace(documented, actual)
    (folder / "gateway.yaml").write_text(written)
    return load(folder / "gateway.yaml", SECRETS | secrets, persist_secrets=False)


async def test_guide_leads_from_an_empty_account_to_a_dispute(
    payments_database: Database, shell: Shell, stripe_of_guide: tuple[FakeStripe, Stripe], tmp_path: Path
) -> None:
    stripe, provider = stripe_of_guide
    prices, customer, subscribed, pack, invoices, refund, dispute, endpoint = blocks("bash")
    async with AsyncExitStack() as stack:
        shell.places["https://api.stripe.com"] = await stack.enter_async_context(serving(stripe.app))
        ids = await shell.run(prices)
        config = configured(ids, tmp_path)
        async with payments_database.transaction() as connection:
            assert await seed(connection, config) == ("maker", "studio")
        checkout_service = build_checkout_service(config, payments_database, {"stripe": provider})
        checkout_service = replace(checkout_service, process_event=None)  # `listen` does, so that nothing is waited for
        public = await stack.enter_async_context(serving(account_app(payments_database, checkout_service)))
        admin = admin_app(payments_database, _publish, missing={}, checkout_service=checkout_service)
        shell.places["http://127.0.0.1:8080"] = public
        shell.places["http://127.0.0.1:8081"] = await stack.enter_async_context(serving(admin))

        async def listen() -> None:
            await _forward(stripe, public)
            while await WebhookProcessor(payments_database, {"stripe": provider}).run_once():
                pass

        registered, url = await shell.run(customer)
        assert json.loads(registered)["email"] == "ada@example.com"
        stripe.pay_checkout(url.rpartition("/")[2])
        await listen()
        subscription, payments, ledger = await shell.read(subscribed)
        assert (subscription["status"], subscription["plan_id"]) == ("active", "maker")
        (paid,) = payments["data"]
        assert (paid["amount"], paid["status"], paid["credits_awarded"]) == ("20.00", "completed", 250_000)
        assert [entry["amount"] for entry in ledger["data"]] == [250_000]

        (url,) = await shell.run(pack)
        stripe.pay_checkout(url.rpartition("/")[2])
        await listen()
        (listed,) = await shell.read(invoices)
        assert [invoice["status"] for invoice in listed["data"]] == ["paid"]

        (refunded,) = await shell.read(refund)
        assert (refunded["status"], refunded["refunded_amount"], refunded["credits_withdrawn"]) == (
            "partially_refunded",
            "10.00",
            125_000,
        )
        disputed = stripe.dispute(stripe.objects[url.rpartition("/")[2]]["payment_intent"])
        await listen()
        found, failed = await shell.read(dispute)
        kinds = {each["transaction_type"]: each["credits_withdrawn"] for each in found["data"]}
        assert kinds == {"credits": 250_000, "dispute": 0}
        assert failed["data"] == []
        stripe.decide(disputed, "won")
        await listen()
        assert (await shell.read(dispute))[0]["data"] == []

        (made,) = await shell.read(endpoint)
        assert (made["url"], made["status"]) == ("https://api.example.com/webhooks/stripe", "enabled")


async def _forward(stripe: FakeStripe, public: str) -> None:
    """What `stripe listen` does: forwards each event, signed."""
    async with httpx.AsyncClient(base_url=public) as client:
        for event in stripe.new_events():
            body, headers = signed(event, STRIPE_SECRETS[0])
            answer = await client.post("/webhooks/stripe", content=body, headers=headers)
            assert answer.status_code == 200, answer.text


async def _publish() -> None:
    return None


def test_guide_says_what_check_prints(tmp_path: Path) -> None:
    (said,) = blocks("text")
    ids = ["price_1", "price_2", "price_3"]
    printed = describe(configured(ids, tmp_path)).split("\n")
    assert [line for line in said.split("\n") if line and line not in printed] == []
    assert "STRIPE_WEBHOOK_SECRET" not in describe(configured(ids, tmp_path, STRIPE_WEBHOOK_SECRET="whsec_1"))
    unset = describe(configured(ids, tmp_path, STRIPE_SECRET_KEY=""))
    assert "warning: prices name Stripe, but STRIPE_SECRET_KEY is not set" in unset


def test_guide_names_every_permission_and_event() -> None:
    words = " ".join(GUIDE.split())
    for access in ("write", "read"):
        names = ", ".join(each.resource for each in PERMISSIONS if each.access == access)
        assert f"**{access.title()}**: {names} " in words
    (events,) = re.findall(r"events='([^']*)'", GUIDE)
    assert events.split() == list(EVENT_TYPES)


def test_guide_sets_every_variable_that_it_uses() -> None:
    given = set(re.findall(r"^export (\w+)=", "\n".join(blocks("shell") + blocks("bash")), re.MULTILINE))
    used = set(re.findall(r"\$\{?([A-Z][A-Z_]+)", "\n".join(blocks("bash") + blocks("yaml"))))
    assert used <= given
