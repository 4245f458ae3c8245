"""Both APIs do what their OpenAPI documents say, whatever is sent: every check of schemathesis on every operation.

The suite sends a few requests to a part of the operations, the same in each run; `make fuzz` sends 200 to each.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from ipaddress import IPv6Address
from typing import Any
from uuid import uuid4

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode, Response
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.api.published import Published, published
from tests.support.sampling import IS_FULL, SEED, scaled, seeded_random

SETTINGS = settings(
    max_examples=scaled(suite=2, full=200),
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
PART_IN_SUITE = 0.15
NETWORKS = itertools.count(0x2001_0DB8_0000)  # the first 48 bits of addresses for documentation (RFC 3849)
# 501 is what operations answer that need a payment provider: none is configured here, and that is no fault of theirs.
CONFIG = {"seed": SEED, "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "501"]}}}
# What only the endpoint can know to be wrong, by what it says of it, and why no schema says so before.
BEYOND_SCHEMAS = {
    "must be an IANA time zone": "the database of time zones grows",
    "must be a currency of ISO 4217": "currencies come and go",
    "must be in the future": "a schema does not know what time it is",
    "must not be in the future": "as here",
    "is out of the calendar": "and not in which years an offset leads out of it",
    "expires_at must be after effective_at": "nor compares one field with another",
    "must be before `to`": "as here",
    "must not be after the last month": "and here",
    "months of the last one": "and here",
    "is a month that has not begun": "nor does a schema know the month",
    "billing_interval_count: at most": "the most depends on the interval",
    "needs group_by": "compares what two parameters say",
    "sort: must be one of": "what may be sorted by depends on the grouping",
    "q: Value should have at least": "the length is that without spaces around it",
    "must be another plan": "as here, the plan with its own id",
    "are part of input_tokens": "nor are two counts compared",
    "two variants have the same name": "nor the members of a list",
    "each variant offers a plan, and none twice": "as here",
    "must rise by up_to": "and here, between the members of a list",
    "must be 0 where tiers price the plan": "nor does it compare fields",
    "are for the pricing models tiered, volume and usage": "which the fields say together",
    "are needed for the pricing model": "as these do",
    "is for tiers of the pricing model usage": "and these",
    "price is required: what each credit": "and these",
    "price is for other plans": "and these",
    "pay no invoice yet": "depends on what a payment was matched to before",
    "only of hmac-sha256": "as these do",
    "is required where the name has no letter or digit": "and these",
    "no permission has the name": "permissions are made by operators",
    "must be one that is configured": "peppers are configured after the document is written",
    "must not hold NUL characters": "patterns do not reach into metadata of any shape",
    "characters without NUL": "nor into features",
    "must not hold control characters": "dialects disagree on Unicode's categories too",
    "may nest 32 deep": "nor is there a word for depth",
    "may hold 16384 bytes": "or for the length of an object",
    "must be proper JSON": "half a surrogate pair is a string to a schema",
    "at least 1 character": "dialects of patterns disagree on which characters are blank",
    "password: required": "only where the address is changed",
    "is not your password": "which is nobody's to publish",
    "must not be the e-mail address": "compares two fields",
    "is among the first that are guessed": "and passwords are a long list",
    "is not valid, was used already or is too old": "tokens out of a mail",
    "is no amount of": "depends on the currency",
    "in whole minor units": "depends on the currency and on what was refunded before",
    "give one of percent_off": "of three fields one",
    "give amount_off and currency together": "as here",
    "amount_off takes nothing off": "in digits, zero has many forms",
    "there is no coupon": "operators make coupons",
    "there is no plan": "and plans",
    "there is no pack": "and configure packs",
    "name a plan or a pack": "of two fields one",
    "must be JSON with": "depends on the route that is quoted",
    "is for plans that are priced by seats": "and on the plan that is bought",
    "is for what costs something": "as here",
}


@pytest.fixture(scope="module")
def apis(own_copy: str, valkey_url: str) -> Iterator[Published]:
    with published(own_copy, valkey_url) as running:
        yield running


@pytest.fixture(scope="module")
async def own_copy(new_database_url: Callable[[], Awaitable[str]]) -> str:
    return await new_database_url()


def test_admin_api_is_as_it_is_published(apis: Published) -> None:
    token = {"authorization": f"Bearer {apis.admin_token}"}
    _assert_as_published("admin", apis.admin_url, caller=lambda: token, things=_things(apis.admin_url, token))


def test_account_api_is_as_it_is_published(apis: Published) -> None:
    def customer() -> dict[str, str]:
        return {"authorization": f"Bearer {apis.customer(f'{uuid4().hex}@example.com')[1]}"}

    _assert_as_published("account", apis.account_url, caller=customer, things={})


def _assert_as_published(name: str, url: str, *, caller: Any, things: Mapping[str, list[str]]) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=SchemathesisConfig.from_dict(CONFIG))
    failures: dict[str, str] = {}
    count = 0
    operations = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operations.append(found.ok())
    if not IS_FULL:
        operations = seeded_random(name).sample(operations, int(len(operations) * PART_IN_SUITE))
    for operation in operations:
        headers = caller()
        for mode in GenerationMode:
            problem = _try(operation, mode, headers, things)
            count += 1
            if problem is not None:
                failures[f"{operation.label} {mode.value}"] = problem
                print(f"{operation.label} {mode.value}\n{problem}\n", flush=True)  # noqa: T201 - all of it takes an hour
    assert not failures, "\n\n".join(f"{label}\n{problem}" for label, problem in failures.items())
    assert count > 10


def _try(operation: Any, mode: GenerationMode, headers: dict[str, str], things: Mapping[str, list[str]]) -> str | None:
    last = ""

    @SETTINGS
    @given(case=operation.as_strategy(generation_mode=mode))
    def conforms(case: Case[Any]) -> None:
        nonlocal last
        _aim(case, things)
        # Where a header is wrong on purpose that must be the one which fails, and it may be this one.
        if case.meta is None or not case.meta.is_negative_at(ParameterLocation.HEADER):
            case.headers.update(headers)
            # An address that nobody had before: schemathesis sends the request again without its token, and wants 401
            # for it, where a throttle of what it sent so far would say 429.
            case.headers["x-forwarded-for"] = str(IPv6Address(next(NETWORKS) << 80))
            case._has_explicit_auth = True
        response = case.call()
        last = f"{case.as_curl_command()[:1500]}\n{response.status_code} {response.text[:500]}"
        case.validate_response(response, excluded_checks=[positive_data_acceptance] if _is_beyond(response) else [])

    try:
        conforms()
    except Unsatisfiable:
        return None  # an operation that takes nothing can be sent nothing wrong
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "\n".join([*(str(each)[:1000] for each in getattr(error, "exceptions", [error])), last])
    return None


def _is_beyond(response: Response) -> bool:
    """Whether all that is refused about it is what no schema can say."""
    if response.status_code == 412:
        return True  # of the tag of an object it knows the form
    if response.status_code != 422 or response.json()["code"] != "validation_failed":
        return False
    told = [(each["field"], f"{each['field']}: {each['message']}") for each in response.json()["errors"]]
    beyond = {field for field, text in told if any(known in text for known in BEYOND_SCHEMAS)}
    return bool(told) and all(field in beyond for field, _ in told)


def _aim(case: Case[Any], things: Mapping[str, list[str]]) -> None:
    """At something that exists, mostly: random ids find nothing."""
    for name in case.path_parameters or {}:
        known = things.get(name)
        if known and case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
            case.path_parameters[name] = known[len(str(case.body)) % len(known)]


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
