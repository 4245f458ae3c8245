"""Responses, embeddings, images and audio of OpenAI (platform.openai.com/docs/api-reference).

Streams of Responses, images and audio report usage in their last event, asked for or not.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.guarantees.ai.table.row import Row, encoded, padded, split, varied
from tests.proxy.metering.cases import TRAP
from tests.proxy.metering.wire import SSE, body, events

RESPONSES, EMBEDDINGS, IMAGES = "/v1/responses", "/v1/embeddings", "/v1/images/generations"
TRANSCRIPTIONS, TRANSLATIONS, SPEECH = "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"
USAGE = {
    "input_tokens": 2000,
    "input_tokens_details": {"cached_tokens": 1500},
    "output_tokens": 300,
    "output_tokens_details": {"reasoning_tokens": 250},
    "total_tokens": 2300,
}
COUNTS = {"input": 2000, "cached_input": 1500, "output": 300, "reasoning": 250}
CHARGE = 500 * 10 + 1500 * 1 + 300 * 50
LOST = {"counts": {}, "charge": 0, "outcome": "upstream_error", "source": "missing"}
FORM_TYPE = {"content-type": "multipart/form-data; boundary=b"}


def _response(status: str, usage: object, *, text: object = TRAP, **more: object) -> dict[str, object]:
    output = [{"type": "message", "content": [{"type": "output_text", "text": text}]}]
    return {"object": "response", "model": "gpt-5.6", "status": status, "output": output, "usage": usage, **more}


def _response_events(kind: str, last: object, text: str = TRAP) -> bytes:
    created = {"type": "response.created", "response": {"model": "gpt-5.6", "error": None, "usage": None}}
    delta = {"type": "response.output_text.delta", "delta": text}
    done = {"type": "response.output_text.done", "text": text}
    named = [(str(each["type"]), each) for each in (created, delta, done)]
    return events(*named, (kind, {"type": kind, "response": last}))


def _responses() -> Iterator[Row]:
    request = {"model": "gpt-5.6", "input": "hi"}
    plain = Row("response", RESPONSES, body(request), body(_response("completed", USAGE)), COUNTS, CHARGE)
    yield plain
    yield from list(encoded(plain))
    incomplete = {"incomplete_details": {"reason": "max_output_tokens"}}
    yield varied(plain, name="response, incomplete", sent=body(_response("incomplete", USAGE, **incomplete)))
    failed = {"error": {"code": "server_error", "message": "x"}}
    yield varied(plain, name="response, failed", sent=body(_response("failed", None, **failed)), **LOST)
    streamed = varied(
        plain,
        name="response stream",
        request=body({**request, "stream": True}),
        sent=_response_events("response.completed", _response("completed", USAGE)),
        content_type=SSE,
    )
    yield streamed
    yield from split(streamed, 1, 100)
    yield from encoded(streamed)
    yield varied(
        streamed,
        name="response stream, incomplete",
        sent=_response_events("response.incomplete", _response("incomplete", USAGE)),
    )
    lost = _response("failed", None, **failed)
    yield varied(streamed, name="response stream, failed", sent=_response_events("response.failed", lost), **LOST)
    spent = _response("failed", USAGE, **failed)
    yield varied(
        streamed,
        name="response stream, failed after work",
        sent=_response_events("response.failed", spent),
        outcome="upstream_error",
    )
    picture = _response("completed", USAGE, text="y" * (3 << 19))
    yield varied(
        streamed, name="response stream, last event of 1.5 MiB", sent=_response_events("response.completed", picture)
    )
    yield varied(streamed, name="response stream, client closed at its last event", leaves=True, rest=None)
    by_pointer = {"path": "/plain/v1/chat/completions", "counts": {}, "charge": 23000}
    yield varied(streamed, name="response stream by the second of two pointers", **by_pointer)


def _embeddings() -> Iterator[Row]:
    usage = {"prompt_tokens": 600, "total_tokens": 600}
    request = body({"model": "text-embedding-3-large", "input": ["hi"], "encoding_format": "base64"})

    def answer(vectors: list[object]) -> bytes:
        data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
        return body({"object": "list", "data": data, "model": "text-embedding-3-large", "usage": usage})

    plain = Row("embeddings", EMBEDDINGS, request, answer(["AAAA"]), {"input": 600, "output": 0}, 6000)
    yield plain
    yield from encoded(plain)
    yield varied(plain, name="embeddings of 10 MiB in base64", sent=answer(["A" * 4096] * 2560))
    yield varied(plain, name="embeddings of 9 MiB in numbers", sent=answer([[-0.0123456789] * 1536] * 420))


def _images() -> Iterator[Row]:
    usage = {
        "input_tokens": 50,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
        "output_tokens": 4000,
        "total_tokens": 4050,
    }
    counts, charge = {"input": 50, "input_image": 40, "output": 4000}, 10 * 10 + 40 * 30 + 4000 * 50
    request = {"model": "gpt-image-1", "prompt": "a cat"}
    picture = {"b64_json": "A" * (2 << 20)}
    plain = Row("image of 2 MiB", IMAGES, body(request), body({"data": [picture], "usage": usage}), counts, charge)
    yield plain
    yield varied(plain, name="five images of 2 MiB", sent=body({"data": [picture] * 5, "usage": usage}))
    partial = {"type": "image_generation.partial_image", "partial_image_index": 0, **picture}
    last = {"type": "image_generation.completed", **picture, "usage": usage}
    streamed = events((partial["type"], partial), (last["type"], last))
    asked = body({**request, "stream": True})
    yield varied(plain, name="image stream, events of 2 MiB", request=asked, sent=streamed, content_type=SSE)
    asked = padded(body({"model": "dall-e-3", "prompt": "a cat"}), 400)
    untold = body({"created": 1, "data": [{"url": "https://images.example/1"}]})
    yield Row("image without usage", IMAGES, asked, untold, {"input": 100, "output": 0}, 1000, source="estimated")


def _form(size: int = 0, **values: str) -> bytes:
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in values.items()
    ]
    file = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg\r\n\r\n'
    whole = "".join(parts) + file
    filler = max(size - len(whole) - len("\r\n--b--\r\n"), 8)
    return (whole + "s" * filler + "\r\n--b--\r\n").encode()


def _audio() -> Iterator[Row]:
    details = {"text_tokens": 10, "audio_tokens": 190}
    tokens = {
        "type": "tokens",
        "input_tokens": 200,
        "input_token_details": details,
        "output_tokens": 30,
        "total_tokens": 230,
    }
    counts, charge = {"input": 200, "input_audio": 190, "output": 30}, 10 * 10 + 190 * 40 + 30 * 50
    heard = body({"text": TRAP, "usage": tokens})
    plain = Row(
        "transcription", TRANSCRIPTIONS, _form(model="gpt-4o-transcribe"), heard, counts, charge, fields=FORM_TYPE
    )
    yield plain
    yield varied(plain, name="transcription of 5 MiB", request=_form(5 << 20, model="gpt-4o-transcribe"))
    deltas = [{"type": "transcript.text.delta", "delta": TRAP}] * 3
    last = {"type": "transcript.text.done", "text": TRAP, "usage": tokens}
    streamed = _form(model="gpt-4o-transcribe", stream="true")
    yield varied(plain, name="transcription stream", request=streamed, sent=events(*deltas, last), content_type=SSE)
    whisper = body({"text": "hi", "usage": {"type": "duration", "seconds": 12.4}})
    form = _form(model="whisper-1")
    yield Row("translation by seconds", TRANSLATIONS, form, whisper, {}, 38, fields=FORM_TYPE)
    text = b"1\n00:00:00,000 --> 00:00:04,000\nhi\n"
    form = _form(model="whisper-1", response_format="srt")
    untold = Row("translation as srt", TRANSLATIONS, form, text, {}, 500, source="missing", fields=FORM_TYPE)
    yield varied(untold, content_type=b"text/plain; charset=utf-8")
    spoken = bytes(range(256)) * 4096
    asked = body({"model": "tts-1", "input": "Grüße, 世界", "voice": "alloy"})
    yield Row("speech by characters", SPEECH, asked, spoken, {}, 18, source="none", content_type=b"audio/mpeg")
    usage = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
    sound = [{"type": "speech.audio.delta", "audio": "A" * 4096}] * 4
    sent = events(*sound, {"type": "speech.audio.done", "usage": usage})
    asked = body({"model": "gpt-4o-mini-tts", "input": "hi", "voice": "alloy", "stream_format": "sse"})
    counts = {"input": 14, "output": 101}
    yield Row("speech stream", f"/events{SPEECH}", asked, sent, counts, 140 + 5050, content_type=SSE)


ROWS = [*_responses(), *_embeddings(), *_images(), *_audio()]
