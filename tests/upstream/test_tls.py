"""https targets are verified against their name and an authority, or nothing is sent to them."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.upstream.balancer import tls_context
from gateway.upstream.errors import NotSentError
from gateway.upstream.request_head import Request
from policies.model import Outcome
from tests.upstream.scripted import Reply, Scripted, Then, eventually, fetch, scripted, upstream_to

CA_SETTINGS = """
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
subjectAltName = {names}
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of this session's own, by the openssl binary."""

    folder: Path

    @property
    def certificate(self) -> str:
        return str(self.folder / "ca.pem")

    def server_context(self, names: str, *, days: int = 2) -> ssl.SSLContext:
        stem = f"{abs(hash((names, days)))}"
        (self.folder / "settings").write_text(CA_SETTINGS.format(names=names))
        self._run(
            "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{stem}.key", "-out", f"{stem}.csr", "-subj", "/CN=up"
        )
        signing = (
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-extfile",
            "settings",
            "-extensions",
            "server",
        )
        self._run("x509", "-req", "-in", f"{stem}.csr", "-out", f"{stem}.pem", "-days", str(days), *signing)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def create(self) -> None:
        (self.folder / "settings").write_text(CA_SETTINGS.format(names="DNS:none"))
        made = ("-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")
        self._run("req", "-x509", *made, "-config", "settings", "-extensions", "ca")

    def _run(self, *words: str) -> None:
        extra = ("-config", "settings") if words[0] == "req" and "-config" not in words else ()
        subprocess.run(["openssl", *words, *extra], cwd=self.folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl binary to make certificates with")
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.create()
    return made


@pytest.fixture(scope="module")
def local_server(authority: Authority) -> ssl.SSLContext:
    return authority.server_context("DNS:localhost, IP:127.0.0.1")


def named(server: Scripted) -> str:
    return server.url.replace("127.0.0.1", "localhost")


@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "by address"])
async def test_tls_connection_to_a_verified_target_is_reused(
    authority: Authority, local_server: ssl.SSLContext, *, by_name: bool
) -> None:
    async with scripted(tls=local_server) as server:
        url = named(server) if by_name else server.url
        async with upstream_to(url, tls=tls_context(authority.certificate)) as upstream:
            for size in (1, 1_000_000):
                assert await fetch(upstream, Request(b"POST", b"/", body=b"x" * size)) == (200, b"ok")

            assert len(server.peers) == 1
            chosen = server.peers[0].transport.get_extra_info("ssl_object")
            assert chosen.selected_alpn_protocol() == "http/1.1"
            assert chosen.version() in ("TLSv1.2", "TLSv1.3")


async def test_tls_sends_the_server_name(authority: Authority) -> None:
    asked: list[str | None] = []
    context = authority.server_context("DNS:localhost, IP:127.0.0.1")
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    async with (
        scripted(tls=context) as server,
        upstream_to(named(server), tls=tls_context(authority.certificate)) as one,
    ):
        await fetch(one)

    assert asked == ["localhost"]


@pytest.mark.parametrize("names", ["DNS:other.example", "IP:127.0.0.2"])
async def test_tls_sends_nothing_to_a_certificate_of_another_name(authority: Authority, names: str) -> None:
    async with (
        scripted(tls=authority.server_context(names)) as server,
        upstream_to(named(server), tls=tls_context(authority.certificate)) as upstream,
    ):
        with pytest.raises(NotSentError) as raised:
            await fetch(upstream)

        assert raised.value.outcome is Outcome.UPSTREAM_UNREACHABLE
        assert server.requests == []


async def test_tls_sends_nothing_to_an_unknown_authority(local_server: ssl.SSLContext) -> None:
    async with scripted(tls=local_server) as server, upstream_to(named(server)) as upstream:
        with capture_logs() as lines, pytest.raises(NotSentError):
            await fetch(upstream)
        assert all("certificate verify failed" in line["reason"] for line in lines)
        assert lines

        assert server.requests == []


async def test_tls_target_that_speaks_plain_text_is_unreachable(authority: Authority) -> None:
    async with scripted(greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        url = server.url.replace("http:", "https:")
        async with upstream_to(url, tls=tls_context(authority.certificate)) as upstream:
            with pytest.raises(NotSentError):
                await fetch(upstream)


async def test_tls_handshake_without_a_reply_times_out(authority: Authority) -> None:
    async with scripted(reads=False) as server:
        url = server.url.replace("http:", "https:")
        async with upstream_to(url, tls=tls_context(authority.certificate), connect_timeout_seconds=0.1) as upstream:
            with pytest.raises(NotSentError) as raised:
                await fetch(upstream)

            assert raised.value.outcome is Outcome.UPSTREAM_TIMEOUT


async def test_tls_connection_that_was_closed_is_not_reused(authority: Authority, local_server: ssl.SSLContext) -> None:
    async with (
        scripted(Reply(then=Then.CLOSE), Reply(), tls=local_server) as server,
        upstream_to(named(server), tls=tls_context(authority.certificate)) as upstream,
    ):
        await fetch(upstream)
        await eventually(lambda: "0 open" in repr(upstream))

        assert await fetch(upstream) == (200, b"ok")
