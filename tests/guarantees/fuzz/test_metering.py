"""Whatever way a body is cut, compressed and written, a reader finds in it what it says; and a plain parser agrees."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.proxy.metering.documents.reader import DocumentReader
from gateway.proxy.metering.documents.selection import Fields, Leaf, select_paths
from gateway.proxy.metering.readers import READERS
from gateway.proxy.metering.readers.reading import ResponseReading
from gateway.proxy.metering.readers.response import ResponseReader
from policies.model import Refused
from policies.usage.counts import MAX_COUNT, UsageClass
from tests.guarantees.fuzz.bodies import Encode, Token, Writer, noise, pieces, rewritten, seeds, values
from tests.proxy.metering.bodies import CASES
from tests.proxy.metering.cases import Case
from tests.proxy.metering.test_responses import check
from tests.proxy.metering.wire import ENCODINGS, JSON
from tests.support.sampling import scaled

EXAMPLES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
SMALL_BYTES = (40, 500, 64 * 1024)  # above it, a text is scanned instead of parsed

_cases = st.sampled_from(CASES)
_encodings = st.sampled_from(ENCODINGS)
_small = st.sampled_from(SMALL_BYTES)
_cuts = st.lists(st.floats(0, 1, exclude_max=True), max_size=12)


@settings(EXAMPLES, max_examples=scaled(suite=100, full=10_000))
@given(case=_cases, encoding=_encodings, cuts=_cuts, step=st.integers(0, 40), asks=st.booleans(), small=_small)
def test_any_split_gives_the_same_counts(
    case: Case, encoding: tuple[bytes, Encode], cuts: list[float], step: int, asks: bool, small: int
) -> None:
    name, encode = encoding
    data = encode(case.body)
    whole = _read(case, [data], name, small=small)
    even = [data[start : start + step] for start in range(0, len(data), step)] if step else pieces(data, cuts)

    parted = _read(case, even, name, small=small, asks=asks)

    assert parted == whole
    check(case, parted)


@settings(EXAMPLES, max_examples=scaled(suite=100, full=10_000))
@given(case=_cases, seed=seeds, strewn=noise, encoding=_encodings, cuts=_cuts, small=_small)
def test_json_around_and_inside_the_usage_changes_nothing(
    case: Case, seed: int, strewn: list[tuple[str, Any]], encoding: tuple[bytes, Encode], cuts: list[float], small: int
) -> None:
    name, encode = encoding
    data = encode(rewritten(case, Writer(seed, strewn)))

    check(case, _read(case, pieces(data, cuts), name, small=small))


_counts: st.SearchStrategy[Any] = st.one_of(
    st.integers(-5, 5_000),
    st.sampled_from([0, MAX_COUNT, MAX_COUNT + 1, 2.0, 2.5, 1e6, 1e300, None, True, "7", [], {}, Token("1e400")]),
    st.integers(),
)
_reports = st.fixed_dictionaries({}, optional={"prompt_tokens": _counts, "completion_tokens": _counts})


@settings(EXAMPLES, max_examples=scaled(suite=100, full=10_000))
@given(report=_reports, answer=values, seed=seeds, strewn=noise, cuts=_cuts, small=_small)
def test_counts_are_those_that_a_plain_parser_finds(
    report: dict[str, Any], answer: Any, seed: int, strewn: list[tuple[str, Any]], cuts: list[float], small: int
) -> None:
    text = Writer(seed, strewn).document({"answer": answer, "choices": [{"message": answer}], "usage": report})
    found = json.loads(text)["usage"]
    names = {UsageClass.INPUT: "prompt_tokens", UsageClass.OUTPUT: "completion_tokens"}
    expected = {kind: count for kind, name in names.items() if (count := _whole(found.get(name))) is not None}

    case = Case("plain", "openai", JSON, text.encode(), None)
    usage = _read(case, pieces(case.body, cuts), b"", small=small).usage

    assert (dict(usage.counts) if usage is not None else {}) == expected


_PATH_NAMES = ["usage", "model", "type", "x-", "error", "0", "1", ""]
_path = st.lists(st.sampled_from(_PATH_NAMES), min_size=1, max_size=4).map(tuple)
_paths = st.lists(_path, min_size=1, max_size=4, unique_by=lambda path: path[0])  # none lies within another
_documents = st.dictionaries(st.sampled_from(_PATH_NAMES), values, max_size=5)


@settings(EXAMPLES, max_examples=scaled(suite=100, full=10_000))
@given(document=_documents, paths=_paths, seed=seeds, cuts=_cuts, small=_small)
def test_scanner_and_parser_find_the_same_values(
    document: dict[str, Any], paths: list[tuple[str, ...]], seed: int, cuts: list[float], small: int
) -> None:
    text = Writer(seed).document(document)
    expected = {
        "/".join(path): json.dumps(value) for path in paths if (value := _at(json.loads(text), path)) is not None
    }
    found: list[Fields] = []
    selection = select_paths((path, Leaf.VALUE, "/".join(path)) for path in paths)
    reader = DocumentReader(selection, lambda fields, _: found.append(fields), small_bytes=small)
    for piece in pieces(text.encode(), cuts):
        reader.write(piece)
    reader.close()

    (fields,) = found
    assert {name: json.dumps(value) for name, value in fields.items() if value is not None} == expected


_asked = st.fixed_dictionaries(
    {}, optional={"model": st.one_of(st.text(max_size=9), st.just(5)), "max_tokens": _counts, "stream": st.booleans()}
)


@settings(EXAMPLES, max_examples=scaled(suite=100, full=10_000))
@given(asked=_asked, messages=values, seed=seeds, strewn=noise)
def test_request_that_is_taken_is_read_as_a_plain_parser_reads_it(
    asked: dict[str, Any], messages: Any, seed: int, strewn: list[tuple[str, Any]]
) -> None:
    text = Writer(seed, strewn).document({"messages": messages, **asked})
    try:
        reading = READERS["openai"].read_request("/v1/chat/completions", JSON, text.encode())
    except Refused:
        return
    plain = json.loads(text)
    limit = plain.get("max_tokens")

    assert reading.model == (plain.get("model") or None)
    assert reading.is_streaming == plain.get("stream", False)
    assert reading.max_output == (None if limit is None or limit < 0 else limit)


def _read(case: Case, chunks: list[bytes], encoding: bytes, *, small: int, asks: bool = False) -> ResponseReading:
    api = READERS[case.reader]
    is_usual = small == SMALL_BYTES[-1]
    reader = (
        api.open_response(case.content_type, encoding)
        if is_usual
        else ResponseReader(api.response, case.content_type, encoding, small_bytes=small)
    )
    for chunk in chunks:
        reader.feed(chunk)
        if asks:
            reader.reading()
    return reader.reading()


def _whole(value: Any) -> int | None:
    """A count as bills take it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return int(value) if value == int(value) else None


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name in ("0", "1") and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value
