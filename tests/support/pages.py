"""What every page must tell the browser that shows it."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

import httpx


def assert_closed_document(answer: httpx.Response) -> None:
    """No guessing of types, no framing, no address told to others, no copy in a cache."""
    assert answer.status_code == 200, answer.text
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("referrer-policy") == ["no-referrer"]
    assert answer.headers.get_list("cache-control") == ["no-store"]
    (policy,) = answer.headers.get_list("content-security-policy")
    assert "frame-ancestors 'none'" in policy


def assert_closed_page(answer: httpx.Response) -> None:
    """Besides, only what the page was written with runs, and it has nothing that only a looser policy lets in."""
    assert_closed_document(answer)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.partition(" ")[::2] for part in answer.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["base-uri"], policy["form-action"]) == ("'none'",) * 3
    for name in ("script", "style"):
        contents = re.findall(rf"<{name}\b[^>]*>(.*?)</{name}>", answer.text, re.DOTALL)
        digests = [b64encode(sha256(content.encode()).digest()).decode() for content in contents]
        assert policy.get(f"{name}-src", "").split() == [f"'sha256-{digest}'" for digest in digests]
    assert not re.search(r"<[a-z]+[^>]*\s(?:on[a-z]+|style)=", answer.text)
