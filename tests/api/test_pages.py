"""Every page of both applications is closed: its policy lets in what it was written with. Invoices: tests/payments."""

from __future__ import annotations

from gateway.api.page_policy import policy_of
from tests.api.conftest import AdminApi, client_of
from tests.support.pages import assert_closed_document, assert_closed_page

BROWSER = {"accept": "text/html"}
PATHS = ("/docs", "/problems", "/problems/insufficient_credits")


async def test_every_page_lets_in_what_it_was_written_with(admin_api: AdminApi) -> None:
    async with client_of(admin_api.app, token=None) as stranger:
        for path in PATHS:
            assert_closed_page(await stranger.get(path, headers=BROWSER))
        for path in ("/openapi.json", "/problems", "/metrics", "/healthz"):
            assert_closed_document(await stranger.get(path))


def test_script_that_found_its_way_in_has_no_hash() -> None:
    source = "<style>p{}</style><p>{{ name }}"
    policy = policy_of(source)
    assert "script-src" not in policy
    assert "style-src 'sha256-" in policy
    assert "unsafe" not in policy
