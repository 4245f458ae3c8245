"""How operators sign in: what would let strangers in is refused at the start."""

from __future__ import annotations

import pytest

from gateway.config.operation.console import Console
from policies.model import ADMIN_SCOPES
from tests.config.test_loading import Load, Problems, load_text, problems_of  # noqa: F401 - fixtures

OIDC = "console: {scopes: {ops: [all]}, oidc: {issuer: %s, client_id: c, url: %s}}"
PROXY = "console: {scopes: {ops: [all]}, trusted_proxy: {addresses: %s}}"


def test_groups_have_their_scopes_together() -> None:
    console = Console(scopes={"*": ("read",), "support": ("credits:write",), "ops": ("all",)})
    assert console.scopes_of(frozenset()) == {"read"}
    assert console.scopes_of(frozenset({"support", "unknown"})) == {"read", "credits:write"}
    assert console.scopes_of(frozenset({"ops"})) == ADMIN_SCOPES
    assert Console().scopes_of(frozenset({"ops", "*", "all"})) == frozenset()


def test_console_has_a_provider_and_a_proxy(load_text: Load) -> None:  # noqa: F811 - the fixture
    console = load_text(
        """
        console:
          scopes: {ops: [all], "*": [read]}
          trusted_proxy: {addresses: [10.0.3.7, "fd00::/64"], user_header: Remote-User, groups_header: Remote-Groups}
          oidc: {issuer: "https://login.example.com/", client_id: c, url: "https://admin.example.com", session: 1h}
        """,
        {"GATEWAY_OIDC_CLIENT_SECRET": "s3cret"},
    )
    assert console.secrets.oidc_client_secret == "s3cret"
    assert "s3cret" not in repr(console)
    proxy, oidc = console.console.trusted_proxy, console.console.oidc
    assert proxy is not None
    assert oidc is not None
    assert (proxy.user_header, proxy.groups_header) == ("remote-user", "remote-groups")
    assert (oidc.issuer, oidc.session_seconds) == ("https://login.example.com", 3600)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (PROXY % "[]", "console.trusted_proxy.addresses"),
        (PROXY % '["0.0.0.0/0"]', "console.trusted_proxy.addresses"),
        (PROXY % '[10.0.0.7, "::/0"]', "console.trusted_proxy.addresses"),
        (PROXY % "[10.0.0.7], user_header: Host", "console.trusted_proxy.user_header"),
        (PROXY % "[10.0.0.7], user_header: 'X User'", "console.trusted_proxy.user_header"),
        (OIDC % ("http://login.example.com", "https://admin.example.com"), "console.oidc.issuer"),
        (OIDC % ("'https://login.example.com?x=1'", "https://admin.example.com"), "console.oidc.issuer"),
        (OIDC % ("https://login.example.com", "https://admin.example.com/console"), "console.oidc.url"),
        ("console: {trusted_proxy: {addresses: [10.0.0.7]}}", "console"),
        ("console: {scopes: {ops: [root]}}", "console.scopes.ops[0]"),
    ],
)
def test_sign_in_that_is_open_to_strangers_is_refused(
    problems_of: Problems,  # noqa: F811 - the fixture
    text: str,
    key: str,
) -> None:
    assert key in {problem.key for problem in problems_of(text)}


def test_provider_on_this_machine_may_be_without_tls(load_text: Load) -> None:  # noqa: F811 - the fixture
    oidc = load_text(OIDC % ("http://127.0.0.1:9000", "http://localhost:8081")).console.oidc
    assert oidc is not None
    assert oidc.issuer == "http://127.0.0.1:9000"
