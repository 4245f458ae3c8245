"""How an upstream fails, each with the outcome that the call is accounted as."""

from __future__ import annotations

from policies.model import Outcome, Refusal


class UpstreamError(Exception):
    """The upstream gave no complete response.

    `outcome` is what the call is accounted as, `code` and `detail` go to the client. `is_clients_doing` says that it
    was the client that took or sent too little.
    """

    is_clients_doing = False

    def __init__(self, outcome: Outcome, code: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.code = code
        self.detail = detail


class NotSentError(UpstreamError):
    """No byte of the request was sent: any method may be retried."""


class BodyLengthError(ValueError):
    """The request body is longer or shorter than announced, which is the caller's fault."""


def unreachable(detail: str) -> UpstreamError:
    """There is no connection, or it ended before the first byte of a response."""
    return UpstreamError(Outcome.UPSTREAM_UNREACHABLE, Refusal.UPSTREAM_UNREACHABLE, detail)


def not_connected(detail: str) -> NotSentError:
    return NotSentError(Outcome.UPSTREAM_UNREACHABLE, Refusal.UPSTREAM_UNREACHABLE, detail)


def connect_timed_out(detail: str) -> NotSentError:
    return NotSentError(Outcome.UPSTREAM_TIMEOUT, Refusal.UPSTREAM_TIMEOUT, detail)


def timed_out(detail: str) -> UpstreamError:
    return UpstreamError(Outcome.UPSTREAM_TIMEOUT, Refusal.UPSTREAM_TIMEOUT, detail)


def not_taken(when: str) -> UpstreamError:
    """The client did not take what the upstream had sent."""
    error = UpstreamError(
        Outcome.CLIENT_ABORTED, Refusal.UPSTREAM_TIMEOUT, f"the client did not take the response {when}"
    )
    error.is_clients_doing = True
    return error


def invalid(detail: str) -> UpstreamError:
    """What the upstream sent is not one complete HTTP/1.x response."""
    return UpstreamError(Outcome.UPSTREAM_INVALID, Refusal.UPSTREAM_INVALID, detail)


def broken(exc: Exception | None, *, is_begun: bool) -> UpstreamError:
    """The upstream ended the connection during an exchange, of which the response is begun or not."""
    reason = "closed the connection" if exc is None else f"broke the connection ({exc})"
    if is_begun:
        return invalid(f"the upstream {reason} before the end of its response")
    return unreachable(f"the upstream {reason} before it answered")


def overloaded(detail: str) -> UpstreamError:
    """Nothing was sent: the queue is full or too slow, or every target is ejected."""
    return UpstreamError(Outcome.UPSTREAM_UNREACHABLE, Refusal.UPSTREAM_OVERLOADED, detail)
