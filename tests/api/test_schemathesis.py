"""Both APIs do what their OpenAPI documents say, whatever is sent: every check of schemathesis on every operation.

A few requests an operation in the suite, 200 by `make fuzz`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.result import Ok

from gateway.embedded.stores import Stores
from tests.api.published import Published, published
from tests.scale import times

SETTINGS = settings(
    max_examples=times(suite=2, full=200),
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
# Signing in is slowed down on purpose, so 429 is no answer of a mistaken document.
ANSWERS = ["2xx", "401", "403", "404", "409", "422", "429"]
# 501 is what operations answer that need a payment provider, and there is none here.
CONFIG = {
    "checks": {
        "positive_data_acceptance": {"expected-statuses": [*ANSWERS, "501"]},
        "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "501"]},
    }
}


@pytest.fixture(scope="module")
def apis(own_copy: str, valkey_url: str) -> Iterator[Published]:
    with published(own_copy, valkey_url) as running:
        yield running


@pytest.fixture(scope="module")
async def own_copy(stores: Stores, template_database: str) -> str:
    import asyncpg

    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(stores.database_url)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    await connection.close()
    return f"{stores.database_url.rpartition('/')[0]}/{name}"


def test_the_admin_api_is_as_it_is_published(apis: Published) -> None:
    token = {"authorization": f"Bearer {apis.admin_token}"}
    _assert_as_published(apis.admin_url, lambda: token, _things(apis.admin_url, token))


def test_the_account_api_is_as_it_is_published(apis: Published) -> None:
    def customer() -> dict[str, str]:
        return {"authorization": f"Bearer {apis.customer(f'{uuid4().hex}@example.com')[1]}"}

    _assert_as_published(apis.account_url, customer, {})


def _assert_as_published(url: str, caller: Any, things: Mapping[str, list[str]]) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=SchemathesisConfig.from_dict(CONFIG))
    failures: dict[str, str] = {}
    count = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        headers = caller()
        for mode in GenerationMode:
            problem = _try(operation, mode, headers, things)
            count += 1
            if problem is not None:
                failures[f"{operation.label} {mode.value}"] = problem
    assert not failures, "\n\n".join(f"{label}\n{problem}" for label, problem in failures.items())
    assert count > 10


def _try(operation: Any, mode: GenerationMode, headers: dict[str, str], things: Mapping[str, list[str]]) -> str | None:
    @SETTINGS
    @given(case=operation.as_strategy(generation_mode=mode))
    def conforms(case: Case[Any]) -> None:
        _aim(case, things)
        # Where a header is wrong on purpose that must be the one which fails, and it may be this one.
        if case.meta is None or not case.meta.is_negative_at(ParameterLocation.HEADER):
            case.headers.update(headers)
            case._has_explicit_auth = True
        case.call_and_validate()

    try:
        conforms()
    except Unsatisfiable:
        return None  # an operation that takes nothing can be sent nothing wrong
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "\n".join(str(each) for each in getattr(error, "exceptions", [error]))[:3000]
    return None


def _aim(case: Case[Any], things: Mapping[str, list[str]]) -> None:
    """At something that exists, mostly: random ids find nothing."""
    for name in case.path_parameters or {}:
        known = things.get(name)
        if known and case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
            case.path_parameters[name] = known[hash(str(case.body)) % len(known)]


def _things(url: str, token: dict[str, str]) -> dict[str, list[str]]:
    """Ids that exist, by the names of path parameters."""
    with httpx.Client(base_url=f"{url}/admin/v1", headers=token) as client:

        def made(path: str, body: dict[str, Any]) -> str:
            answer = client.post(path, json=body)
            assert answer.status_code == 201, answer.text
            return str(answer.json()["id"])

        plan = made("/plans", {"name": "Fuzzed", "price": "1.00"})
        users = [made("/users", {"email": f"{uuid4().hex}@example.com", "plan": plan}) for _ in range(2)]
        keys = [made("/keys", {"user_id": user}) for user in users]
        return {
            "plan": [plan],
            "plan_id": [plan],
            "user_id": users,
            "key_id": keys,
            "product_id": [made("/products", {"name": "Fuzzed"})],
            "permission_id": [made("/permissions", {"name": "fuzzed"})],
            "permission": ["fuzzed"],
            "token_id": [made("/admin-tokens", {"name": "fuzzed", "scopes": ["read"]})],
        }
