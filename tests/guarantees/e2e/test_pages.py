"""The portal of a whole installation: through the public listener, by a process that serves no calls."""

from __future__ import annotations

import re
import subprocess
import sys

import httpx
import psutil

from tests.guarantees.demo import Running
from tests.web.portal.visitors import form_token

EMAIL = "demo@example.com"
_IMPORTED = "import sys, gateway.runtime.roles, gateway.runtime.public_listener; print('gateway.web' in sys.modules)"


async def test_a_customer_signs_in_and_makes_a_real_call_from_the_page(demo: Running) -> None:
    password = (demo.data_dir / "demo_password").read_text()
    async with httpx.AsyncClient(base_url=demo.public_url, timeout=30, trust_env=False) as client:
        token = form_token((await client.get("/portal/sign-in")).text)
        signed_in = await client.post(
            "/portal/sign-in", data={"form_token": token, "email": EMAIL, "password": password}
        )
        assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/portal"), signed_in.text
        page = (await client.get("/portal/first-call?route=analyze")).text
        assert f"curl {demo.public_url}/v1/analyze" in page
        sent = {"form_token": form_token(page), "route": "analyze", "body": '{"text": "Hello"}'}
        called = await client.post("/portal/first-call", data=sent)
        assert "x-credits-charged: 1" in called.text
        receipt = re.search(r"<p>1 credit</p>", called.text)
        assert receipt is not None, "the receipt is that of the usage writer"
        assert (await client.get("/portal/nothing")).status_code == 404


async def test_a_session_is_handed_over_by_the_admin_api(demo: Running) -> None:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        made = await client.post(
            f"{demo.admin_url}/admin/v1/portal-sessions",
            json={"user_id": demo.user_id, "return_url": "https://app.example.com/x"},
            headers=demo.admin_headers,
        )
        assert made.status_code == 201, made.text
        assert made.json()["url"].startswith(f"{demo.public_url}/portal/enter?code=")
        assert (await client.get(made.json()["url"])).headers["location"] == "/portal"
        assert "https://app.example.com/x" in (await client.get(f"{demo.public_url}/portal")).text


def test_pages_have_no_place_where_calls_are_served(demo: Running) -> None:
    """A process that serves calls neither holds the pages nor listens for them."""
    found = subprocess.run([sys.executable, "-c", _IMPORTED], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
    commands = [each.cmdline() for each in psutil.Process(demo.process.pid).children()]
    assert {("proxy" in each, "portal" in each) for each in commands} >= {(True, False), (False, True)}
    assert not any("proxy" in each and "portal" in each for each in commands)
