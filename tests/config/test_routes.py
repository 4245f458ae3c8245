from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.config import ConfigError, load
from policies.model import Route
from policies.pricing.price import Price

SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}


def routes(tmp_path: Path, *entries: str) -> tuple[Route, ...]:
    listed = "".join(f"  - {{name: r{index}, upstream: up, {entry}}}\n" for index, entry in enumerate(entries))
    file = tmp_path / "gateway.yaml"
    file.write_text(f"upstreams: {{up: {{targets: [http://a]}}}}\nroutes:\n{listed}", "utf-8")
    return load(file, SECRETS, persist_secrets=False).routes


def problem(tmp_path: Path, *entries: str) -> str:
    with pytest.raises(ConfigError) as caught:
        routes(tmp_path, *entries)
    (found,) = caught.value.problems
    return str(found).partition("gateway.yaml:")[2]


def test_route_has_everything_that_policies_decide_on(tmp_path: Path) -> None:
    (route,) = routes(
        tmp_path,
        "match: {path: /v1/files/**, methods: [get, Post]}, usage_type: analysis, feature: f, permission: p,"
        "price: {credits: 1}, max_body_bytes: 20MiB, charge_on: [2XX, 404], websocket: true, charge_broken: true",
    )

    assert route == Route(
        name="r0",
        path="/v1/files/**",
        methods=frozenset({"GET", "POST"}),
        upstream="up",
        usage_type="analysis",
        price=Price(credits=Decimal(1)),
        feature="f",
        permission="p",
        max_body_bytes=20 * 2**20,
        charge_on=frozenset({"2xx", "404"}),
        websocket=True,
        charge_broken=True,
    )


@pytest.mark.parametrize(
    "path",
    ["/", "/**", "/v1/", "/v1/a-b_c.d~e", "/a/**", "/@x:y,z", "/..a/...", "/*", "/m/*:embed", "/p/*/a*z"],
)
def test_canonical_paths_are_taken_as_they_are(tmp_path: Path, path: str) -> None:
    (route,) = routes(tmp_path, f"match: {{path: '{path}'}}, price: {{credits: 1}}")

    assert route.path == path


@pytest.mark.parametrize(
    "path", ["", "v1", "//", "/a//b", "/a/../b", "/a/.", "/%41", "/a;b", "/a?b", "/a#b", "/a b", "/é", "/*/**",
             "/a/**/b", "/a/*b*", "/a**", "/a\\\\b", "/a/../**", "//**"],
)  # fmt: skip
def test_path_with_a_second_spelling_is_refused(tmp_path: Path, path: str) -> None:
    assert problem(tmp_path, f'match: {{path: "{path}"}}, price: {{credits: 1}}').startswith("3: routes[0].match.path")


@pytest.mark.parametrize("methods", ["[]", "[CONNECT]", "[TRACE]", "[PSOT]", "[1]", "{}"])
def test_methods_a_gateway_cannot_serve_are_refused(tmp_path: Path, methods: str) -> None:
    said = problem(tmp_path, f"match: {{path: /, methods: {methods}}}, price: {{credits: 1}}")

    assert said.startswith("3: routes[0].match.methods")


@pytest.mark.parametrize("statuses", ["[]", "2xx", "[6xx]", "[20]", "[ok]"])
def test_charge_on_refuses_malformed_statuses(tmp_path: Path, statuses: str) -> None:
    said = problem(tmp_path, f"match: {{path: /}}, price: {{credits: 1}}, charge_on: {statuses}")

    assert said.startswith("3: routes[0].charge_on: must be a list of statuses")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("match: {path: /, methods: [POST]}, price: {credits: 1}", "websocket needs GET among match.methods"),
        ("match: {path: /}, price: {credits: 1, per: item, count: request:/x}", "per: call or per: minute"),
        ("match: {path: /}, price: {credits: 1, per: 9 tokens, count: response:/x}", "per: call or per: minute"),
    ],
)
def test_websocket_that_cannot_be_opened_or_priced_is_refused(tmp_path: Path, rest: str, message: str) -> None:
    assert message in problem(tmp_path, f"{rest}, websocket: true")
    assert routes(tmp_path, f"{rest}, websocket: false")


@pytest.mark.parametrize(
    "rest", ["", "match: {path: /a, methods: [get]}, price: {credits: 1, per: 5 minutes, hold: 9}"]
)
def test_websocket_costs_per_call_or_per_minute(tmp_path: Path, rest: str) -> None:
    (route,) = routes(tmp_path, f"{rest or 'match: {path: /}, price: {credits: 1}'}, websocket: true")

    assert route.websocket


def test_routes_for_one_request_are_refused_naming_both(tmp_path: Path) -> None:
    said = problem(
        tmp_path,
        "match: {path: /a, methods: [GET, POST]}, price: {credits: 1}",
        "match: {path: /a, methods: [PUT, POST]}, price: {credits: 1}",
    )

    assert said == "4: routes[1].match: routes r0 and r1 both match POST /a"


def test_path_may_have_a_route_per_method_and_a_wider_prefix(tmp_path: Path) -> None:
    found = routes(
        tmp_path,
        "match: {path: /a, methods: [GET]}, price: {credits: 0}",
        "match: {path: /a, methods: [POST]}, price: {credits: 1}",
        "match: {path: /a/**}, price: {credits: 1}",
    )

    assert len(found) == 3


def test_two_routes_of_one_name_are_refused(tmp_path: Path) -> None:
    entry = "match: {path: /%s}, upstream: up, price: {credits: 1}"
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "upstreams: {up: {targets: [http://a]}}\nroutes:\n"
        f"  - {{name: same, {entry % 'a'}}}\n  - {{name: same, {entry % 'b'}}}\n"
    )

    with pytest.raises(ConfigError, match=r"gateway\.yaml:4: routes\[1\]\.name: 'same' is taken already, at .*:3"):
        load(file, SECRETS, persist_secrets=False)


def test_label_of_unknown_routes_cannot_be_a_name(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "upstreams: {up: {targets: [http://a]}}\n"
        "routes: [{name: other, upstream: up, match: {path: /}, price: {credits: 1}}]"
    )

    with pytest.raises(ConfigError, match="must not be other"):
        load(file, SECRETS, persist_secrets=False)


def test_routes_of_an_invalid_upstream_are_not_reported(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("upstreams: {up: {}}\nroutes: [{name: a, upstream: up, match: {path: /}, price: {credits: 1}}]")

    with pytest.raises(ConfigError) as caught:
        load(file, SECRETS, persist_secrets=False)

    assert [problem.key for problem in caught.value.problems] == ["upstreams.up.targets"]


def test_pattern_that_stands_twice_is_refused_with_its_place(tmp_path: Path) -> None:
    entry = "match: {path: '/m/*:go', methods: [POST]}, price: {credits: 1}"
    said = problem(tmp_path, entry, entry)
    assert said.startswith("4: routes[1].match")
    assert "both match POST /m/*:go" in said


@pytest.mark.parametrize("prefix", ["/v2", "/v", "/v1/a", "v1", "/v1/", "/*"])
def test_strip_prefix_that_the_path_does_not_begin_with_is_refused(tmp_path: Path, prefix: str) -> None:
    assert "routes[0]" in problem(tmp_path, f"match: {{path: /v1/a}}, price: {{credits: 1}}, strip_prefix: '{prefix}'")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("match: {path: /m, methods: [GET]}, price: {credits: 1}", "serves: models needs a price with models"),
        ("match: {path: /m}, price: {reader: openai, models: {a: 1}}", "serves: models needs match.methods: [GET]"),
        (
            "upstream: up, match: {path: /m, methods: [GET]}, price: {reader: openai, models: {a: 1}}",
            "neither upstream",
        ),
    ],
)
def test_route_that_serves_models_needs_prices_and_no_upstream(tmp_path: Path, entry: str, message: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"upstreams: {{up: {{targets: [http://a]}}}}\nroutes: [{{name: r, serves: models, {entry}}}]\n")
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(file, SECRETS, persist_secrets=False)


def test_route_without_an_upstream_serves_something_itself(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("routes: [{name: r, match: {path: /m}, price: {credits: 1}}]\n")
    with pytest.raises(ConfigError, match=r"routes\[0\].upstream: is required"):
        load(file, SECRETS, persist_secrets=False)
