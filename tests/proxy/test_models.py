"""Routes that serve models: what a plan may use, in the form of the list's API, and no call."""

from __future__ import annotations

import openai
import pytest
from google import genai
from google.genai import types as genai_types

from gateway.ledger.accounts import api_keys
from tests.proxy.data_plane import DataPlane
from tests.proxy.problems import assert_problem

GPT_5 = {"id": "gpt-5", "object": "model", "created": 0, "owned_by": "openai"}


async def test_models_are_those_that_the_plan_may_use(data_plane: DataPlane) -> None:
    with_it = await data_plane.create_account(features={"analysis": True})
    without = await data_plane.create_account()

    assert (await data_plane.get(with_it, "/v1/models")).json() == {"object": "list", "data": [GPT_5]}
    assert (await data_plane.get(without, "/v1/models")).json() == {"object": "list", "data": []}


async def test_models_have_the_form_of_their_api(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(features={"analysis": True})
    gemini = (await data_plane.get(account, "/v1beta/models")).json()
    claude = (await data_plane.get(account, "/claude/v1/models")).json()

    assert [model["name"] for model in gemini["models"]] == ["models/g-1", "models/g-2"]
    assert gemini["models"][0]["outputTokenLimit"] == 9
    assert (claude["first_id"], claude["last_id"], claude["has_more"]) == ("c-1", "c-2", False)
    assert claude["data"][0] == {
        "type": "model",
        "id": "c-1",
        "display_name": "c-1",
        "created_at": "1970-01-01T00:00:00Z",
    }


async def test_model_by_name_is_there_where_the_plan_may_use_it(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    found = await data_plane.get(account, "/v1/models/gpt-4o-2024")

    assert (found.status_code, found.json()["id"]) == (200, "gpt-4o-2024")
    for name in ("gpt-5", "gpt-3"):
        assert_problem(await data_plane.get(account, f"/v1/models/{name}"), 404, "route_not_found")


async def test_models_are_no_call(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=0, requests_per_minute=1)
    answers = [await data_plane.get(account, "/v1/models") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[0].headers["x-request-id"]
    assert data_plane.upstream.exchanges == []
    assert await data_plane.usage_rows(account) == []


@pytest.mark.parametrize(
    ("path", "code", "status"), [("/claude/v1/models", "feature_not_in_plan", 403), ("/v1/models", "invalid_key", 401)]
)
async def test_models_take_the_checks_of_a_call(data_plane: DataPlane, path: str, code: str, status: int) -> None:
    account = await data_plane.create_account()
    key = account.key if status == 403 else "gw_live_" + "0" * 36
    answer = await data_plane.http.get(path, headers={"x-api-key": key})

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_models_need_an_active_subscription(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(subscribed=False)

    assert (await data_plane.get(account, "/v1/models")).status_code == 402


async def test_openai_client_lists_and_retrieves_models(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(features={"analysis": True})
    async with openai.AsyncOpenAI(base_url=f"{data_plane.url}/v1", api_key=account.key) as client:
        listed = [model.id async for model in client.models.list()]
        found = await client.models.retrieve("gpt-5")

    assert (listed, found.owned_by) == (["gpt-5"], "openai")


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")  # the client's own
async def test_google_client_lists_models(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(features={"analysis": True})
    options = genai_types.HttpOptions(base_url=data_plane.url, api_version="v1beta")
    client = genai.Client(api_key=account.key, http_options=options).aio
    listed = [model.name async for model in await client.models.list()]
    await client.aclose()

    assert listed == ["models/g-1", "models/g-2"]


async def test_models_are_refused_to_a_key_from_its_revocation_on(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    assert (await data_plane.get(account, "/v1/models")).status_code == 200
    async with data_plane.database.transaction() as connection:
        await api_keys.revoke(connection, account.key_id)
    await data_plane.publish()
    assert_problem(await data_plane.get(account, "/v1/models"), 401, "key_revoked")


async def test_models_are_those_of_a_changed_plan_at_once(data_plane: DataPlane) -> None:
    account = await data_plane.create_account()
    assert (await data_plane.get(account, "/v1/models")).json()["data"] == []
    await data_plane.change_plan(account, features={"analysis": True})
    await data_plane.publish()
    assert (await data_plane.get(account, "/v1/models")).json()["data"] == [GPT_5]
