from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from gateway.http.problem_types import STATUS
from gateway.http.problems import Problem, problem, render
from policies.model import Refusal, Refused


def document(found: Problem) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(found.body)
    return body


def header(found: Problem, name: bytes) -> bytes | None:
    values = [value for key, value in found.headers if key == name]
    assert len(values) <= 1
    return values[0] if values else None


@pytest.mark.parametrize("code", list(Refusal))
def test_problem_types_have_every_refusal(code: Refusal) -> None:
    assert 400 <= STATUS[code] < 600


# As the contract's table of checks has them.
@pytest.mark.parametrize(
    ("status", "codes"),
    [
        (400, "bad_request invalid_body invalid_webhook"),
        (401, "missing_key invalid_key key_revoked key_expired unauthorized"),
        (402, "subscription_inactive insufficient_credits"),
        (
            403,
            (
                "key_disabled ip_not_allowed account_suspended permission_denied feature_not_in_plan forbidden"
                " insufficient_scope model_not_offered"
            ),
        ),
        (404, "route_not_found not_found"),
        (405, "method_not_allowed"),
        (408, "request_timeout"),
        (409, "conflict idempotency_in_progress idempotency_not_replayable payment_refused"),
        (413, "payload_too_large"),
        (414, "uri_too_long"),
        (415, "unsupported_encoding"),
        (417, "expectation_failed"),
        (422, "batch_too_large validation_failed idempotency_key_reused"),
        (429, "rate_limited too_many_in_flight"),
        (431, "headers_too_large"),
        (500, "internal_error"),
        (501, "not_implemented payments_not_configured"),
        (502, "upstream_unreachable upstream_invalid"),
        (
            503,
            (
                "upstream_overloaded metering_unavailable accounts_unavailable too_many_connections overloaded"
                " payment_unavailable shutting_down"
            ),
        ),
        (504, "upstream_timeout"),
        (505, "version_not_supported"),
    ],
)
def test_problem_types_have_the_statuses_of_the_contract(status: int, codes: str) -> None:
    assert {code for code, found in STATUS.items() if found == status} == set(codes.split())


@pytest.mark.parametrize("code", sorted(STATUS))
def test_problem_is_a_document_of_rfc_9457(code: str) -> None:
    found = problem(code, 'Said "so", ünd more.', request_id="req-1")

    body = document(found)
    assert body.pop("title")
    assert body.pop("error")
    assert body == {
        "type": f"/problems/{code}",
        "status": found.status,
        "detail": 'Said "so", ünd more.',
        "code": code,
        "request_id": "req-1",
    }
    assert found.status == STATUS[code]
    assert header(found, b"content-type") == b"application/problem+json"
    assert header(found, b"content-length") == str(len(found.body)).encode()
    assert header(found, b"cache-control") == b"no-store"


@pytest.mark.parametrize("code", sorted(STATUS))
def test_problem_of_401_and_no_other_challenges(code: str) -> None:
    challenge = header(problem(code, "x", request_id="r"), b"www-authenticate")

    assert challenge == (b"Bearer" if STATUS[code] == 401 else None)


@pytest.mark.parametrize("code", sorted(STATUS))
def test_problem_that_time_does_not_solve_asks_for_no_retry(code: str) -> None:
    said = header(problem(code, "x", request_id="r"), b"x-should-retry")

    assert said == (b"false" if code in ("insufficient_credits", "idempotency_not_replayable") else None)


def test_problem_has_extras_as_members() -> None:
    refused = Refused(Refusal.INSUFFICIENT_CREDITS, "Too few.", required=5, available=2)

    body = document(render(refused, "r"))

    assert (body["required"], body["available"], body["detail"]) == (5, 2, "Too few.")


def test_problem_spells_violated_policies_with_a_hyphen() -> None:
    refused = Refused(Refusal.RATE_LIMITED, "Slow down.", violated_policies=["minute", "hour"], retry_after=12)

    body = document(render(refused, "r"))

    assert body["violated-policies"] == ["minute", "hour"]
    assert "violated_policies" not in body


@pytest.mark.parametrize(("seconds", "written"), [(0, b"0"), (7, b"7"), (0.2, b"1"), (6.0, b"6"), (6.01, b"7")])
def test_problem_rounds_retry_after_up(seconds: float, written: bytes) -> None:
    found = render(Refused(Refusal.RATE_LIMITED, "Slow down.", retry_after=seconds), "r")

    assert header(found, b"retry-after") == written
    assert document(found)["retry_after"] == seconds


@pytest.mark.parametrize("allow", [{"POST", "GET"}, ("POST", "GET"), frozenset({"GET", "POST"}), "GET, POST"])
def test_problem_has_allow_as_a_field_only(allow: object) -> None:
    found = render(Refused(Refusal.METHOD_NOT_ALLOWED, "No.", allow=allow), "r")

    assert header(found, b"allow") == b"GET, POST"
    assert "allow" not in document(found)


def test_problem_lists_errors_by_field() -> None:
    errors = [{"field": "email", "message": "is not an address"}]

    assert document(problem("validation_failed", "x", request_id="r", extras={"errors": errors}))["errors"] == errors


def test_problem_renders_other_values_as_text_or_sorted_lists() -> None:
    refused = Refused(
        Refusal.FEATURE_NOT_IN_PLAN, "No.", plans_with_feature=frozenset({"pro", "basic"}), plan=UUID(int=1)
    )

    body = document(render(refused, "r"))

    assert body["plans_with_feature"] == ["basic", "pro"]
    assert body["plan"] == "00000000-0000-0000-0000-000000000001"


def test_problem_replaces_text_that_is_not_unicode() -> None:
    assert "\ud800" not in document(problem("bad_request", "\ud800", request_id="r"))["detail"]


def test_problem_of_an_unknown_code_raises() -> None:
    with pytest.raises(KeyError):
        problem("teapot", "x", request_id="r")


def test_error_member_repeats_what_client_libraries_show() -> None:
    body = document(problem("insufficient_credits", 'Not "enough".', request_id="r"))

    assert body["error"] == {
        "message": 'Not "enough".',
        "type": "billing_error",
        "code": "insufficient_credits",
    }


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("bad_request", "invalid_request_error"),
        ("invalid_key", "authentication_error"),
        ("rate_limited", "rate_limit_error"),
        ("internal_error", "api_error"),
        ("metering_unavailable", "overloaded_error"),
    ],
)
def test_error_type_is_one_that_client_libraries_know(code: str, kind: str) -> None:
    assert document(problem(code, "x", request_id="r"))["error"]["type"] == kind


@pytest.mark.parametrize(("seconds", "should_retry"), [(59, None), (60, None), (61, b"false"), (86_400, b"false")])
def test_rate_limited_asks_clients_not_to_sleep_out_a_long_wait(seconds: int, should_retry: bytes | None) -> None:
    found = render(Refused(Refusal.RATE_LIMITED, "Slow down.", retry_after=seconds), "r")

    assert header(found, b"x-should-retry") == should_retry
