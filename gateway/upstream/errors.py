"""The four ways in which an upstream fails to answer, each with the outcome it is accounted as."""

from __future__ import annotations

from policies.model import Outcome, Refusal


class UpstreamError(Exception):
    """The upstream gave no complete answer.

    `outcome` is what the request is accounted as, `code` what the client is told, `detail` a sentence without secrets.
    """

    def __init__(self, outcome: Outcome, code: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.code = code
        self.detail = detail


class NotSentError(UpstreamError):
    """No byte of the request left: any method may be tried elsewhere."""


class BodyLengthError(ValueError):
    """The request body's iterator gave another number of bytes than was announced: the caller's fault."""


def unreachable(detail: str) -> UpstreamError:
    """No connection, or it ended before one byte of an answer."""
    return UpstreamError(Outcome.UPSTREAM_UNREACHABLE, Refusal.UPSTREAM_UNREACHABLE, detail)


def not_connected(detail: str) -> NotSentError:
    return NotSentError(Outcome.UPSTREAM_UNREACHABLE, Refusal.UPSTREAM_UNREACHABLE, detail)


def connect_timed_out(detail: str) -> NotSentError:
    return NotSentError(Outcome.UPSTREAM_TIMEOUT, Refusal.UPSTREAM_TIMEOUT, detail)


def timed_out(detail: str) -> UpstreamError:
    return UpstreamError(Outcome.UPSTREAM_TIMEOUT, Refusal.UPSTREAM_TIMEOUT, detail)


def invalid(detail: str) -> UpstreamError:
    """What came back is not one complete HTTP/1.x response."""
    return UpstreamError(Outcome.UPSTREAM_INVALID, Refusal.UPSTREAM_INVALID, detail)


def overloaded(detail: str) -> UpstreamError:
    """Nothing was sent: the queue is full or too slow, or every target is ejected."""
    return UpstreamError(Outcome.UPSTREAM_UNREACHABLE, Refusal.UPSTREAM_OVERLOADED, detail)
