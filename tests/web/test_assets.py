"""Static files are kept by browsers for as long as they stay the same."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from gateway.config.operation.portal import Portal as PortalSettings
from tests.web.portal.visitors import PortalStack, build_stack

LOGO = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'


async def test_a_file_has_a_name_by_its_content_and_is_kept(stack: PortalStack) -> None:
    visitor = stack.stranger()
    urls = re.findall(r'(?:href|src)="(/portal/static/[^"]+)"', await visitor.get("/sign-in"))
    assert len(urls) == 3
    for url in urls:
        response = await visitor.client.get(url)
        assert response.status_code == 200
        assert response.headers.get_list("cache-control") == ["public, max-age=31536000, immutable"]
        assert response.headers.get_list("x-content-type-options") == ["nosniff"]
        again = await visitor.client.get(url, headers={"if-none-match": f'"other", W/{response.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")


async def test_a_name_that_no_file_has_is_not_found(stack: PortalStack) -> None:
    visitor = stack.stranger()
    for name in ("web.css", "web-xxxxxxxxxxxx.css", "..%2fweb.css", "%00"):
        response = await visitor.client.get(f"/portal/static/{name}")
        assert response.status_code == 404
        assert "immutable" not in response.headers["cache-control"]


async def test_the_brand_is_that_of_the_configuration(stack: PortalStack, tmp_path: Path) -> None:
    logo = tmp_path / "logo.svg"
    logo.write_text(LOGO)
    settings = PortalSettings(
        name="<Acme>", logo=logo, accent="#cc0055", footer="Acme <Inc>", welcome="Hello & welcome"
    )
    async with httpx.AsyncClient() as client:
        visitor = build_stack(stack.account, client, settings=settings).stranger()
        text = await visitor.get("/sign-in")
        for shown in ("&lt;Acme&gt;", "Acme &lt;Inc&gt;", "Hello &amp; welcome"):
            assert shown in text
        brand, image = re.findall(r'"(/portal/static/(?:brand|logo)[^"]+)"', text)
        assert "--accent:#cc0055" in (await visitor.client.get(brand)).text
        shown_logo = await visitor.client.get(image)
        assert shown_logo.headers["content-type"] == "image/svg+xml"
        assert "script-src" not in shown_logo.headers["content-security-policy"]
        assert "default-src 'none'" in shown_logo.headers["content-security-policy"], "no script of it runs"
        await visitor.client.aclose()
