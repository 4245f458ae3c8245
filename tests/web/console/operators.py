"""Browsers of the console: they keep cookies, and send the forms that pages show them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape
from typing import Any
from uuid import uuid4

import httpx

ORIGIN = "https://console"
PORTAL_URL = "https://portal.test"
_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


@dataclass
class Api:
    """The admin API with every scope, for what a test prepares and looks up."""

    client: httpx.AsyncClient

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None, **params: Any) -> Any:
        response = await self.client.request(method, f"/admin/v1{path}", json=body, params=params or None)
        assert response.is_success, response.text
        return response.json() if response.content else None

    async def get(self, path: str, **params: Any) -> Any:
        return await self.call("GET", path, **params)

    async def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return await self.call("POST", path, body)

    async def create_user(self, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = await self.post("/users", {"email": f"{uuid4().hex}@example.com", **fields})
        return made

    async def create_plan(self, **fields: Any) -> dict[str, Any]:
        body = {"name": f"Plan {uuid4().hex[:12]}", "price": "9.90", "credits_per_period": 70, **fields}
        made: dict[str, Any] = await self.post("/plans", body)
        return made

    async def token(self, *scopes: str) -> str:
        made = await self.post("/admin-tokens", {"name": f"t{uuid4().hex}", "scopes": list(scopes)})
        return str(made["token"])


@dataclass
class Browser:
    client: httpx.AsyncClient

    async def get(self, path: str, *, status: int = 200, **params: Any) -> str:
        response = await self.client.get(f"/console{path}", params=params or None)
        assert response.status_code == status, (response.status_code, path, response.text[-1500:])
        return response.text

    async def form_token(self, page: str) -> str:
        found = _TOKEN.search((await self.client.get(f"/console{page}")).text)
        assert found is not None, page
        return unescape(found[1])

    async def submit(self, page: str, action: str | None = None, *, status: int = 303, **fields: Any) -> httpx.Response:
        """Sends the form of a page to `action`, which is the page itself where it is left out."""
        sent = {name: value for name, value in fields.items() if value is not None}
        sent["form_token"] = await self.form_token(page)
        response = await self.client.post(f"/console{page if action is None else action}", data=sent)
        assert response.status_code == status, (response.status_code, response.text[-1500:])
        return response

    async def confirmation(self, page: str, **fields: Any) -> str:
        """What the page of a plan has its form send back once it has shown the difference."""
        shown = (await self.submit(page, status=200, **fields)).text
        found = re.search(r'name="confirmed" value="([^"]+)"', shown)
        assert found is not None, shown[-1500:]
        return found[1]

    async def sign_in(self, token: str) -> None:
        await self.submit("/sign-in", token=token)

    async def follow(self, response: httpx.Response) -> str:
        location = response.headers["location"]
        assert location.startswith("/console"), location
        return await self.get(location.removeprefix("/console"))
