"""Calls to AI APIs through the whole data plane: held by the request, charged by what the API reports, never free."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway import metrics
from policies.usage import records
from policies.usage.recorded import MAX_COST_USD
from tests.proxy.data_plane import Account, DataPlane
from tests.proxy.metering.openai_bodies import chat
from tests.proxy.metering.wire import FRAMES, chunk_frame, compact, events
from tests.proxy.problems import assert_problem

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
USAGE = {"prompt_tokens": 1000, "completion_tokens": 300, "prompt_tokens_details": {"cached_tokens": 900}}
STREAM = events(chat("one"), chat("two"))
USAGE_EVENT = events({"choices": [], "usage": USAGE, "model": "gpt-4o-2024"})
DONE = b"data: [DONE]\n\n"
CHARGE = 100 + 90 + 600  # uncached and cached input, and output


def request(**more: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", "max_tokens": 50, "messages": [{"content": "hi"}]} | more).encode()


async def post(data_plane: DataPlane, account: Account, content: bytes, path: str = CHAT, **headers: str) -> Any:
    return await data_plane.http.post(path, content=content, headers=account.auth | headers)


async def test_stream_is_asked_for_usage_that_its_client_does_not_see(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    data_plane.upstream.respond_with(200, STREAM + USAGE_EVENT + DONE, content_type="text/event-stream")
    answer = await post(data_plane, account, request(stream=True))
    assert answer.content == STREAM + DONE
    assert json.loads(data_plane.upstream.last.body)["stream_options"] == {"include_usage": True}
    assert data_plane.upstream.last["accept-encoding"] == "identity"
    row = await data_plane.usage_row(account)
    assert (row["outcome"], row["credits_charged"], row["tokens_used"]) == ("succeeded", CHARGE, 1300)


async def test_stream_whose_client_asked_for_usage_passes_unchanged(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    content = request(stream=True, stream_options={"include_usage": True})
    data_plane.upstream.respond_with(200, STREAM + USAGE_EVENT + DONE, content_type="text/event-stream")
    answer = await post(data_plane, account, content)
    assert answer.content == STREAM + USAGE_EVENT + DONE
    assert data_plane.upstream.last.body == content
    assert (await data_plane.usage_row(account))["credits_charged"] == CHARGE


async def test_document_is_charged_by_class_whatever_its_coding(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    content = gzip.compress(compact(chat("x", usage=USAGE)).encode())
    fields = {"content_type": "application/json", "content_encoding": "gzip"}
    data_plane.upstream.respond_with(200, content, **fields)
    answer = await post(data_plane, account, request(), **{"accept-encoding": "br, dcb, gzip;q=0.5"})
    assert answer.json()["usage"] == USAGE
    assert data_plane.upstream.last["accept-encoding"] == "br, gzip;q=0.5"
    row = await data_plane.usage_row(account)
    assert row["credits_charged"] == CHARGE
    counts = [row[name] for name in records.USAGE_COLUMNS]
    assert counts == ["gpt-4o", 1000, 900, None, 300, None, "reported"]
    assert row["metadata"].keys() <= {"balance_after", "model_served"}


async def test_gzip_request_is_priced_and_passes_as_it_came(data_plane: DataPlane) -> None:
    account, coding = await data_plane.create_account(credits=2000), {"content-encoding": "gzip"}
    content = gzip.compress(request())
    data_plane.upstream.respond_with(200, compact(chat("x", usage=USAGE)).encode(), content_type="application/json")
    await post(data_plane, account, content, **coding)
    assert data_plane.upstream.last.body == content
    assert data_plane.upstream.last["content-encoding"] == "gzip"
    assert (await data_plane.usage_row(account))["credits_charged"] == CHARGE
    poor = await data_plane.create_account(credits=120)
    required = -(-len(request()) // 3) + 2 * 50
    answer = await post(data_plane, poor, content, **coding)
    assert_problem(answer, 402, "insufficient_credits", required=required, available=120)


async def test_gzip_request_that_must_ask_for_usage_passes_decoded(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    data_plane.upstream.respond_with(200, STREAM + USAGE_EVENT + DONE, content_type="text/event-stream")
    answer = await post(data_plane, account, gzip.compress(request(stream=True)), **{"content-encoding": "gzip"})
    assert answer.content == STREAM + DONE
    assert json.loads(data_plane.upstream.last.body)["stream_options"] == {"include_usage": True}
    assert data_plane.upstream.last.all("content-encoding") == []
    assert (await data_plane.usage_row(account))["credits_charged"] == CHARGE


COST = Decimal("0.139000")  # 100 uncached and 900 cached input, and 300 output


@pytest.mark.parametrize(
    ("served", "said", "fields", "cost"),
    [
        ("gpt-4o-2024-11-20", {}, {}, COST),
        ("gpt-4o-2025", {}, {}, None),
        ("gpt-4o-2024-11-20", {"cost": 0.25}, {}, Decimal("0.250000")),
        ("gpt-4o-2024-11-20", {"cost": 0.25}, {"gateway_cost_usd": "0.5"}, Decimal("0.500000")),
        ("gpt-4o-2025", {}, {"gateway_cost_usd": "999999.9999999"}, MAX_COST_USD),
        ("gpt-4o-2025", {"cost": 10**7}, {}, MAX_COST_USD),
    ],
)
async def test_cost_is_the_upstreams_word_before_the_bodys_before_the_list(
    data_plane: DataPlane, served: str, said: dict[str, Any], fields: dict[str, str], cost: Decimal | None
) -> None:
    account = await data_plane.create_account(credits=2000)
    document = chat("x", usage=USAGE | said) | {"model": served}
    data_plane.upstream.respond_with(200, compact(document).encode(), content_type="application/json", **fields)
    unknown = metrics.COST_UNKNOWN.labels("openai")
    before = unknown._value.get()
    await post(data_plane, account, request())
    row = await data_plane.usage_row(account)
    assert (row["cost_usd"], row["credits_charged"]) == (cost, CHARGE)
    assert unknown._value.get() - before == (cost is None)


async def test_call_that_an_upstream_refuses_is_not_of_unknown_cost(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    data_plane.upstream.respond_with(429, b'{"error": {"message": "later"}}', content_type="application/json")
    before = metrics.COST_UNKNOWN.labels("openai")._value.get()
    await post(data_plane, account, request())
    assert (await data_plane.usage_row(account))["cost_usd"] is None
    assert metrics.COST_UNKNOWN.labels("openai")._value.get() == before


async def test_usage_that_is_missing_is_estimated_and_marked(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    data_plane.upstream.respond_with(200, STREAM + DONE, content_type="text/event-stream")
    content = request(stream=True)
    await post(data_plane, account, content)
    row, least = await data_plane.usage_row(account), len(content) // 4
    assert row["usage_source"] == "estimated"
    assert row["credits_charged"] > least


@pytest.mark.parametrize("content_type", ["", "text/plain"])
async def test_response_whose_type_does_not_tell_is_charged(data_plane: DataPlane, content_type: str) -> None:
    account = await data_plane.create_account(credits=4000)
    data_plane.upstream.respond_with(200, compact(chat("x", usage=USAGE)).encode(), content_type=content_type)
    await post(data_plane, account, request())
    row = await data_plane.usage_row(account)
    assert (row["credits_charged"], row["usage_source"]) == (CHARGE, "reported")
    data_plane.upstream.respond_with(200, b"word" * 100, content_type=content_type)
    await post(data_plane, account, request())
    row = (await data_plane.usage_rows(account))[-1]
    assert (row["output_tokens"], row["usage_source"]) == (100, "estimated")


async def test_error_in_a_stream_of_status_200_is_not_charged(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    failed = events({"error": {"message": "overloaded", "type": "server_error"}})
    data_plane.upstream.respond_with(200, STREAM + failed, content_type="text/event-stream")
    assert (await post(data_plane, account, request(stream=True))).status_code == 200
    row = await data_plane.usage_row(account)
    assert (row["outcome"], row["credits_charged"]) == ("upstream_error", 0)


async def test_hold_is_estimated_by_the_request(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=120)
    content = request()
    answer = await post(data_plane, account, content)
    required = -(-len(content) // 3) + 2 * 50
    assert_problem(answer, 402, "insufficient_credits", required=required, available=120)
    assert not data_plane.upstream.exchanges


async def test_report_beyond_the_maximum_is_cut(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    document = compact(chat("x", usage={"prompt_tokens": 10**12 - 1, "completion_tokens": 1})).encode()
    data_plane.upstream.respond_with(200, document, content_type="application/json")
    await post(data_plane, account, request())
    row = await data_plane.usage_row(account)
    assert row["credits_charged"] == 5000
    assert row["metadata"]["flags"] == ["maximum_reached"]


@pytest.mark.parametrize(
    ("model", "code"), [("o1-pro", "model_not_offered"), ("gpt-5", "feature_not_in_plan"), (None, "model_not_offered")]
)
async def test_model_that_may_not_be_used_is_refused_and_counts_nothing(
    data_plane: DataPlane, model: str | None, code: str
) -> None:
    account = await data_plane.create_account(credits=2000)
    async with data_plane.assert_unchanged(account):
        answer = await post(data_plane, account, request(model=model))
    assert (answer.status_code, answer.json()["code"]) == (403, code)


async def test_model_that_may_answer_at_another_price_is_refused_and_counts_nothing(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    async with data_plane.assert_unchanged(account):
        answer = await post(data_plane, account, request(models=["gpt-4o-mini", "gpt-5"]))
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_body")
    assert not data_plane.upstream.exchanges
    assert (await post(data_plane, account, request(models=["gpt-4o-mini"]))).status_code == 200


async def test_gemini_response_without_its_usage_cannot_be_asked_for(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    path = "/v1beta/models/g-1:generateContent"
    async with data_plane.assert_unchanged(account):
        for query, headers in (
            ("?fields=candidates", {}),
            ("", {"x-goog-fieldmask": "candidates"}),
            ("?alt=proto", {}),
        ):
            answer = await post(data_plane, account, b"{}", path + query, **headers)
            assert_problem(answer, 400, "bad_request")
    assert not data_plane.upstream.exchanges
    whole = await post(data_plane, account, b"{}", f"{path}?fields=candidates,usageMetadata&alt=json")
    assert whole.status_code == 200


IN_HEAD = {"x_amzn_bedrock_input_token_count": "25", "x_amzn_bedrock_output_token_count": "30"}
CACHED = {"x_amzn_bedrock_cache_read_input_token_count": "100", "x_amzn_bedrock_cache_write_input_token_count": "0"}
MISTRAL = {"outputs": [{"text": "one two three four", "stop_reason": "stop"}]}
CLAUDE = {"type": "message", "usage": {"input_tokens": 10, "output_tokens": 7}, "content": [{"text": "one"}]}
METRICS = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 26, "outputTokenCount": 31}}


@pytest.mark.parametrize(
    ("document", "fields", "counts"),
    [
        (MISTRAL, IN_HEAD, [25, None, 30, "reported"]),
        (MISTRAL, IN_HEAD | CACHED, [125, 100, 30, "reported"]),
        (CLAUDE, IN_HEAD | CACHED, [10, None, 7, "reported"]),
        ({"inputTextTokenCount": 24, "results": [{"outputText": "one"}]}, IN_HEAD, [24, None, 30, "reported"]),
        ({"embeddings": [[0.5]]}, {"x_amzn_bedrock_input_token_count": "8"}, [8, None, 0, "reported"]),
        (MISTRAL, {"x_amzn_bedrock_input_token_count": "25"}, [25, None, 5, "estimated"]),
        (MISTRAL, {"x_amzn_bedrock_input_token_count": "-1"}, [10, None, 5, "estimated"]),
    ],
)
async def test_bedrock_counts_in_the_head_complete_the_body(
    data_plane: DataPlane, document: dict[str, Any], fields: dict[str, str], counts: list[Any]
) -> None:
    account = await data_plane.create_account(credits=2000)
    data_plane.upstream.respond_with(200, compact(document).encode(), **fields)
    answer = await post(data_plane, account, b"{}".ljust(40), "/model/mistral.large-v1:0/invoke")
    assert answer.headers.keys() >= {name.replace("_", "-") for name in fields}
    row = await data_plane.usage_row(account)
    assert [row[name] for name in ("input_tokens", "cached_input_tokens", "output_tokens", "usage_source")] == counts


@pytest.mark.parametrize("model", ["mistral.large-v1:0", "cohere.command-r-v1:0"])
async def test_bedrock_stream_is_charged_by_its_last_chunk(data_plane: DataPlane, model: str) -> None:
    account = await data_plane.create_account(credits=2000)
    sent = chunk_frame(MISTRAL) + chunk_frame({"outputs": [], "is_finished": True} | METRICS)
    data_plane.upstream.respond_with(200, sent, content_type=FRAMES.decode(), **IN_HEAD)
    await post(data_plane, account, b"{}", f"/model/{model}/invoke-with-response-stream")
    row = await data_plane.usage_row(account)
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (26, 31, "reported")


async def test_anthropic_stream_merges_its_first_and_last_event(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 150, "output_tokens": 1}}}
    delta = {"type": "message_delta", "usage": {"output_tokens": 20}, "delta": {"stop_reason": "end_turn"}}
    stream = events(start, delta, {"type": "message_stop"})
    data_plane.upstream.respond_with(200, stream, content_type="text/event-stream")
    assert (await post(data_plane, account, request(stream=True), MESSAGES)).content == stream
    assert (await data_plane.usage_row(account))["credits_charged"] == 170


@pytest.mark.parametrize(
    ("path", "events_sent", "charged"),
    [
        ("/v1/fragile/chat/completions", STREAM + USAGE_EVENT, CHARGE),
        ("/v1/fragile/chat/completions", STREAM, 0),
        (CHAT, STREAM + USAGE_EVENT, 0),
    ],
)
async def test_response_broken_off_is_charged_what_it_reported_where_its_route_says_so(
    data_plane: DataPlane, path: str, events_sent: bytes, charged: int
) -> None:
    account = await data_plane.create_account(credits=2000)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 100000\r\n\r\n"
    data_plane.upstream.respond_with_bytes(head, events_sent)
    with pytest.raises(httpx.RemoteProtocolError):
        await post(data_plane, account, request(stream=True), path)
    row = await data_plane.usage_row(account)
    assert (row["outcome"], row["credits_charged"]) == ("upstream_invalid", charged)
    assert await data_plane.stored_balance(account) == 2000 - charged


async def test_replay_of_a_stream_of_known_length_has_its_last_event(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    last = b"data: [DONE]\n"
    data_plane.upstream.respond_with(200, STREAM + USAGE_EVENT + last, content_type="text/event-stream")
    answers = [await post(data_plane, account, request(stream=True), **{"idempotency-key": "k"}) for _ in range(2)]
    assert [answer.content for answer in answers] == [STREAM + last] * 2
    assert answers[1].headers["idempotency-replayed"] == "true"


async def test_tokens_of_an_estimated_call_are_its_input_and_output(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    data_plane.upstream.respond_with(200, STREAM + DONE, content_type="text/event-stream")
    await post(data_plane, account, request(stream=True))
    row = await data_plane.usage_row(account)
    assert row["tokens_used"] == row["input_tokens"] + row["output_tokens"] > 0


async def test_list_by_dollars_takes_the_cost_that_the_upstream_reports(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    document = compact(chat("x", usage=USAGE)).encode()
    data_plane.upstream.respond_with(200, document, content_type="application/json", gateway_cost_usd="0.25")
    await post(data_plane, account, request(), "/v1/dollars")
    row = await data_plane.usage_row(account)
    assert (row["credits_charged"], row["usage_source"]) == (250, "reported")


async def test_response_that_is_only_retrieved_is_not_charged_again(data_plane: DataPlane) -> None:
    account = await data_plane.create_account(credits=2000)
    stored = {"object": "response", "status": "failed", "model": "m", "usage": {"input_tokens": 5, "cost": 1}}
    data_plane.upstream.respond_with(200, compact(stored).encode(), content_type="application/json")
    answer = await data_plane.http.get("/v1/responses/resp_1", headers=account.auth)
    assert (answer.status_code, answer.headers["x-credits-charged"]) == (200, "0")
    row = await data_plane.usage_row(account)
    assert (row["outcome"], row["credits_charged"], row["tokens_used"]) == ("succeeded", 0, None)
    assert (row["cost_usd"], row["usage_source"]) == (None, "none")
