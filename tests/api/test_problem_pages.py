"""The `type` of a problem document resolves, without a token."""

from __future__ import annotations

from tests.api.conftest import AdminApi, client_of

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_problem_type_leads_to_its_explanation(admin_api: AdminApi) -> None:
    async with client_of(admin_api.app, token=None) as stranger:
        refused = (await stranger.get("/admin/v1/users")).json()
        explained = await stranger.get(refused["type"])

    assert (explained.status_code, explained.json()["code"]) == (200, refused["code"])
    assert explained.json()["remedy"]


async def test_problem_page_is_html_for_a_browser(admin_api: AdminApi) -> None:
    async with client_of(admin_api.app, token=None) as stranger:
        for path in ("/problems", "/problems/insufficient_credits"):
            page = await stranger.get(path, headers=BROWSER)
            assert page.headers["content-type"].startswith("text/html")
            assert "default-src 'none'" in page.headers["content-security-policy"]
            assert "insufficient_credits" in page.text


async def test_problem_index_lists_all_types(admin_api: AdminApi) -> None:
    async with client_of(admin_api.app, token=None) as stranger:
        listed = (await stranger.get("/problems")).json()["data"]

    assert {"rate_limited", "uri_too_long", "validation_failed"} <= {each["code"] for each in listed}


async def test_problem_page_of_an_unknown_code_is_not_found(admin_api: AdminApi) -> None:
    async with client_of(admin_api.app, token=None) as stranger:
        assert (await stranger.get("/problems/none")).status_code == 404
