"""What a reader gives: of a request what it asks for, of a response what it used."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from policies.pricing.units import Count
from policies.usage.counts import MissingReason, Usage

Counts = Mapping[str, "int | Decimal"]  # by the API's own names, as they stand in its usage object


class RequestReading(NamedTuple):
    """What a request asks for. None is what it does not say.

    `max_output` counts the tokens of each of the `answers` that it asks for, 0 where the operation generates none.
    `needs_usage_option` says that usage comes in this stream only if `stream_options` asks, and it does not: the
    gateway must ask, and take the answer to it out again. A free request is a message of the protocol and no work.
    `alternatives` are other models that may answer in place of the first. A deferred request is answered before its
    work is done, and so before there is any usage; a retrieval asks for what an earlier call made, and for no work.
    """

    model: str | None = None
    max_output: int | None = None
    is_streaming: bool = False
    needs_usage_option: bool = False
    is_free: bool = False
    answers: int = 1
    alternatives: tuple[str, ...] = ()
    is_deferred: bool = False
    is_retrieval: bool = False


class ResponseReading(NamedTuple):
    """What a response has said so far: to a reader, or to the pointers of a plain price, which count its `units`.

    `usage` is None, with the reason in `missing`, where it has not been reported. `is_error` says that the API reports
    a failure in the body, `is_complete` that all content has come, `text_bytes` how much text was generated, which a
    document that reports all its usage is not asked for.
    """

    model: str | None = None
    usage: Usage | None = None
    missing: MissingReason | None = MissingReason.ABSENT
    is_error: bool = False
    is_complete: bool = False
    text_bytes: int = 0
    units: Count | None = None


class Statement(NamedTuple):
    """What one text of a response says. `is_complete` None is no word about it."""

    model: str | None = None
    counts: Counts | None = None
    is_error: bool = False
    is_complete: bool | None = None
