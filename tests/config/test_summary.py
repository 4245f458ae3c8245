from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import describe, load, plans_to_apply, settings_for_restart, warnings, with_reloaded

SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}


def test_summary_names_what_is_served_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("""
database: {url: "postgresql://user:hunter2@db:5432/x?password=hunter2"}
redis: {url: "redis://:hunter2@cache:6379"}
upstreams: {up: {targets: ["http://a:1"], headers: {x: hunter2}}}
routes: [{name: chat, upstream: up, match: {path: /chat, methods: [POST]}, feature: analysis,
          price: {credits: 0.5, per: 1000 tokens, count: response:/n}}]
""")

    said = describe(load(file, SECRETS | {"STRIPE_SECRET_KEY": "hunter2", "STRIPE_WEBHOOK_SECRET": "hunter2"}))

    assert "chat: POST /chat -> up, 0.5 credits per 1000 tokens" in said
    assert "postgresql://db:5432/x" in said
    assert "redis://cache:6379" in said
    assert "PostgreSQL: serve 28, proxy 18, admin 5, worker 5" in said
    assert "hunter2" not in said
    assert "warning" not in said


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis+cluster://u:hunter2@a:7000,b:7001", "redis+cluster://a:7000,b:7001"),
        ("redis+sentinel://u:hunter2@a,b:7/main/1?sentinel_password=hunter2", "redis+sentinel://a,b:7/main/1,"),
    ],
)
def test_summary_names_several_servers_of_redis_and_no_secret(tmp_path: Path, url: str, shown: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f'redis: {{url: "{url}"}}')

    said = describe(load(file, SECRETS))

    assert shown in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("portal", "postgresql", "redis"),
    [
        ("true", "serve 42, proxy 36, admin 3, worker 3", "serve 11, proxy 9, admin 1, worker 1"),
        ("false", "serve 38, proxy 32, admin 3, worker 3", "serve 10, proxy 8, admin 1, worker 1"),
    ],
)
def test_summary_counts_the_connections_of_workers_and_portal(
    tmp_path: Path, portal: str, postgresql: str, redis: str
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{{server: {{workers: 4}}, database: {{pool_size: 3}}, portal: {{enabled: {portal}}}}}")

    said = describe(load(file, SECRETS))

    assert f"PostgreSQL: {postgresql}, and 2 at a start" in said
    assert f"Redis, to each server: {redis}" in said


def test_reload_names_what_takes_effect_at_the_next_start_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("plans: [{id: one, name: One, price: 1}]")
    running = load(file, SECRETS)
    file.write_text("""
server: {public: 127.0.0.1:9, drain_timeout: 5s, cors: {origins: ["https://app.example.com"]}}
redis: {timeout: 7s, url: "redis://:hunter2@cache"}
upstreams: {up: {targets: ["http://a:1"]}}
routes: [{name: chat, upstream: up, match: {path: /chat}, price: {credits: 1}}]
plans: [{id: one, name: One, price: 2}, {id: two, name: Two, price: 2}]
""")
    read = load(file, SECRETS | {"GATEWAY_JWT_SECRET": "hunter2" * 8, "GATEWAY_DATABASE__URL": "postgresql://u@h/d"})

    assert settings_for_restart(running, running) == []
    assert settings_for_restart(running, read) == [
        *("server.public", "server.drain_timeout", "database.url", "redis.url", "redis.timeout", "secrets")
    ]
    assert plans_to_apply(running, read) == ["one"]
    reloaded = with_reloaded(running, read)
    assert settings_for_restart(running, reloaded) == []
    assert reloaded.routes == read.routes
    assert reloaded.server.cors == read.server.cors


def test_likely_mistake_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("""
upstreams: {up: {targets: ["http://a:1"]}, idle: {targets: ["http://a:2"]}}
routes: [{name: chat, upstream: up, match: {path: /}, feature: analisys, price: {credits: 1}}]
""")

    found = warnings(load(file, SECRETS))

    assert len(found) == 2
    assert "upstream idle" in found[0]
    assert "analisys" in found[1]


@pytest.mark.parametrize(
    ("environ", "warned"),
    [
        ({}, ["STRIPE_SECRET_KEY", "LEMON_SQUEEZY_API_KEY"]),
        (
            {"STRIPE_SECRET_KEY": "a", "LEMON_SQUEEZY_API_KEY": "b"},
            ["STRIPE_WEBHOOK_SECRET", "LEMON_SQUEEZY_WEBHOOK_SECRET"],
        ),
    ],
)
def test_prices_that_nobody_can_pay_are_a_warning(tmp_path: Path, environ: dict[str, str], warned: list[str]) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("plans: [{id: a, name: a, price: 5, stripe_price_id: price_1, lemon_squeezy_variant_id: 2}]")

    found = warnings(load(file, SECRETS | environ))

    assert [variable for variable in warned if any(variable in warning for warning in found)] == warned
    assert len(found) == 1 + len(warned)  # and that there are no routes


def test_plan_whose_overage_stripe_cannot_bill_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    environ = SECRETS | {"STRIPE_SECRET_KEY": "a", "STRIPE_WEBHOOK_SECRET": "b"}
    for more, count in (("", 1), (", stripe_price_id: price_2", 0)):
        overage = f"{{credits: 5, price: 1{more}}}"
        file.write_text(f"plans: [{{id: a, name: a, price: 5, stripe_price_id: price_1, overage: {overage}}}]")
        found = warnings(load(file, environ))
        assert len([each for each in found if "plan a cannot be bought at Stripe" in each]) == count


def test_summary_says_where_mail_goes_and_who_waits_for_it(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    said = []
    for section in (
        "mail: {smtp: 'smtp://user:hunter2@mail.example.com:587'}",
        "auth: {require_verified: false}",
        "auth: {}",
    ):
        file.write_text(section)
        (line,) = [each for each in describe(load(file, SECRETS)).splitlines() if each.startswith("mail ")]
        said.append(line.removeprefix("mail").strip())
    assert said[:2] == ["smtp://mail.example.com:587", "to the log"]
    assert said[2].startswith("to the log; free credits and trials wait")


def test_configuration_without_routes_is_valid_with_a_warning() -> None:
    assert "every request is answered with 404" in describe(load(None, SECRETS))
