"""Upstreams of gateway.yaml: certificate authorities and probes."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest

from gateway.config import Config, ConfigError, load
from gateway.config.model import Health

SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}


def loaded(tmp_path: Path, entry: str, environ: dict[str, str] | None = None) -> Config:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"upstreams:\n  up: {{{entry}}}\n", "utf-8")
    return load(file, SECRETS | (environ or {}), persist_secrets=False)


def test_upstream_by_default_trusts_the_system_and_probes_nothing(tmp_path: Path) -> None:
    (upstream,) = loaded(tmp_path, "targets: [https://a]").upstreams

    assert (upstream.ca_file, upstream.health) == (None, None)


def test_ca_file_is_found_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_bytes(Path(certifi.where()).read_bytes())
    monkeypatch.chdir(tmp_path)
    (upstream,) = loaded(tmp_path, "targets: [http://b, https://a], ca_file: ca.pem").upstreams

    assert upstream.ca_file == str(tmp_path / "ca.pem")


def test_probes_have_a_path_and_an_interval(tmp_path: Path) -> None:
    (upstream,) = loaded(tmp_path, "targets: [http://a], health: {path: '/healthz?deep=1'}").upstreams
    assert upstream.health == Health(path="/healthz?deep=1", interval_seconds=5.0)

    environ = {"GATEWAY_UPSTREAMS__UP__HEALTH__INTERVAL": "500ms"}
    (upstream,) = loaded(tmp_path, "targets: [http://a], health: {path: /}", environ).upstreams
    assert upstream.health == Health(path="/", interval_seconds=0.5)


@pytest.mark.parametrize(
    ("entry", "key", "message"),
    [
        ("targets: [https://a], ca_file: nowhere.pem", "upstreams.up.ca_file", "No such file"),
        ("targets: [https://a], ca_file: gateway.yaml", "upstreams.up.ca_file", "must be a PEM file of certificates"),
        ("targets: [https://a], ca_file: 5", "upstreams.up.ca_file", "must be the path of a PEM file"),
        ("targets: [http://a], ca_file: ca.pem", "upstreams.up", "ca_file is for https targets"),
        ("targets: [http://a], health: {}", "upstreams.up.health.path", "is required"),
        ("targets: [http://a], health: {path: healthz}", "upstreams.up.health.path", "must be a path such as /healthz"),
        ("targets: [http://a], health: {path: '/a b'}", "upstreams.up.health.path", "must be a path such as /healthz"),
        ("targets: [http://a], health: {path: '/a#b'}", "upstreams.up.health.path", "must be a path such as /healthz"),
        ("targets: [http://a], health: {path: 5}", "upstreams.up.health.path", "must be a path such as /healthz"),
        ("targets: [http://a], health: {path: /, interval: 0}", "upstreams.up.health.interval", "longer than 0"),
        ("targets: [http://a], health: {path: /, intervall: 1s}", "upstreams.up.health.intervall", "unknown key"),
    ],
)
def test_upstream_mistake_has_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, key: str, message: str
) -> None:
    (tmp_path / "ca.pem").write_bytes(Path(certifi.where()).read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, entry)

    (problem,) = caught.value.problems
    assert problem.key == key
    assert message in problem.message


def test_passed_headers_are_names_in_lower_case(tmp_path: Path) -> None:
    (upstream,) = loaded(tmp_path, "targets: [http://a], pass_headers: [X-Real-IP, x-original-url]").upstreams
    assert upstream.pass_headers == ("x-real-ip", "x-original-url")


@pytest.mark.parametrize("name", ["X-Gateway-User", "x-forwarded-for", "a_b", "a.b", "''", "5"])
def test_passed_header_is_no_field_of_the_gateway(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="pass_headers"):
        loaded(tmp_path, f"targets: [http://a], pass_headers: [{name}]")
