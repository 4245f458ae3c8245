"""The one table of problem types: every code that the gateway answers with, and what a client can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from policies.model import Refusal


class ProblemType(NamedTuple):
    """What all problems of one code have in common. `meaning` and `remedy` are sentences for the client's developer."""

    status: int
    title: str
    meaning: str
    remedy: str


_PROXIED_REQUESTS: Mapping[str, ProblemType] = {  # in the order of the checks
    Refusal.BAD_REQUEST: ProblemType(
        400,
        "Bad request",
        "The request can be read in more than one way, or not at all; `detail` names the part.",
        "Correct that part of the request. Sending the same request again fails again.",
    ),
    Refusal.ROUTE_NOT_FOUND: ProblemType(
        404,
        "Route not found",
        "No route of this gateway has this path.",
        "Compare the path with the API's documentation, the version segment included.",
    ),
    Refusal.METHOD_NOT_ALLOWED: ProblemType(
        405, "Method not allowed", "The path exists, but not for this method.", "Use a method that `Allow` lists."
    ),
    Refusal.MISSING_KEY: ProblemType(
        401,
        "API key missing",
        "The request carries no API key.",
        "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
    ),
    Refusal.INVALID_KEY: ProblemType(
        401,
        "API key invalid",
        "The API key is mistyped, or nobody has such a key.",
        "Copy the whole key again. Create a new one if it is lost: a key is shown only once.",
    ),
    Refusal.KEY_REVOKED: ProblemType(
        401,
        "API key revoked",
        "The API key was revoked, or its rotation is complete.",
        "Use the key that replaced it, or create a new one.",
    ),
    Refusal.KEY_EXPIRED: ProblemType(
        401, "API key expired", "The API key has reached its `expires_at`.", "Create a new key."
    ),
    Refusal.KEY_DISABLED: ProblemType(
        403, "API key disabled", "The API key is switched off.", "Set the key's status to `active`, or use another key."
    ),
    Refusal.IP_NOT_ALLOWED: ProblemType(
        403,
        "Address not allowed",
        "The key has a list of allowed addresses, and the request comes from another one.",
        "Send from an allowed address, or add this one to the key's `allowed_ips`.",
    ),
    Refusal.ACCOUNT_SUSPENDED: ProblemType(
        403,
        "Account suspended",
        "The account that owns the key is suspended.",
        "Ask the operator of this gateway to reactivate the account.",
    ),
    Refusal.SUBSCRIPTION_INACTIVE: ProblemType(
        402,
        "Subscription inactive",
        "The account has no subscription that pays for calls; `subscription_status` says why.",
        "Subscribe to a plan, or settle the open payment.",
    ),
    Refusal.PERMISSION_DENIED: ProblemType(
        403,
        "Permission denied",
        "The key lacks the permission that `permission` names.",
        "Use a key that has the permission, or choose a plan that grants it.",
    ),
    Refusal.FEATURE_NOT_IN_PLAN: ProblemType(
        403,
        "Feature not in plan",
        "The plan lacks the feature that `feature` names.",
        "Change to one of `plans_with_feature`.",
    ),
    Refusal.PAYLOAD_TOO_LARGE: ProblemType(
        413,
        "Payload too large",
        "The body is larger than the route or the plan allows; `max_bytes` is the limit.",
        "Send a smaller body, or change to a plan with a larger limit.",
    ),
    Refusal.INVALID_BODY: ProblemType(
        400,
        "Invalid body",
        "The body is not the JSON that the price or the API needs.",
        "Correct the body as `detail` says.",
    ),
    Refusal.BATCH_TOO_LARGE: ProblemType(
        422,
        "Batch too large",
        "The call has more items than the plan allows in one call; `max_items` is the limit.",
        "Split the call into several, or change to a plan with a larger limit.",
    ),
    Refusal.UNSUPPORTED_ENCODING: ProblemType(
        415,
        "Unsupported encoding",
        "The price needs the body, which is in an encoding that the gateway does not read.",
        "Send the body as it is, or encoded as gzip or deflate.",
    ),
    Refusal.MODEL_NOT_OFFERED: ProblemType(
        403,
        "Model not offered",
        "The price list of this route does not name the model; `models` are those that it names.",
        "Ask for one of `models`; a name that ends in `*` stands for every model that begins so.",
    ),
    Refusal.IDEMPOTENCY_IN_PROGRESS: ProblemType(
        409,
        "Request still in progress",
        "An earlier request with the same Idempotency-Key has not finished.",
        "Wait until it has finished, then repeat the request to get its response.",
    ),
    Refusal.IDEMPOTENCY_KEY_REUSED: ProblemType(
        422,
        "Idempotency key reused",
        "The Idempotency-Key belongs to an earlier, different request.",
        "Use a new Idempotency-Key for each new request.",
    ),
    Refusal.IDEMPOTENCY_NOT_REPLAYABLE: ProblemType(
        409,
        "Response not stored",
        "The earlier request with this Idempotency-Key counts, but its response was not stored; `detail` says why.",
        "Do not repeat the call with this key. A new key makes the call again, and charges it again.",
    ),
    Refusal.RATE_LIMITED: ProblemType(
        429,
        "Rate limit exceeded",
        "There were too many requests in a window of time; `violated-policies` names the windows.",
        "Wait for the seconds that `Retry-After` gives, or change to a plan with higher limits.",
    ),
    Refusal.TOO_MANY_IN_FLIGHT: ProblemType(
        429,
        "Too many requests in flight",
        "As many calls of the account as the plan allows run at this moment; `limit` is their number.",
        "Wait until a running call ends, then try again.",
    ),
    Refusal.INSUFFICIENT_CREDITS: ProblemType(
        402,
        "Insufficient credits",
        "The call needs more credits (`required`) than the account or the key has (`available`).",
        "Buy credits, change the plan, raise the key's credit cap, or wait for the next period.",
    ),
    Refusal.UPSTREAM_UNREACHABLE: ProblemType(
        502,
        "Upstream unreachable",
        "The service behind this gateway could not be connected to, or closed the connection without a response.",
        "Try again later. The call was not charged.",
    ),
    Refusal.UPSTREAM_INVALID: ProblemType(
        502,
        "Upstream response invalid",
        "The service behind this gateway sent something other than one whole HTTP response.",
        "Try again. If it persists, send the `request_id` to the operator. The call was not charged.",
    ),
    Refusal.UPSTREAM_TIMEOUT: ProblemType(
        504,
        "Upstream timed out",
        "The service behind this gateway did not respond in time.",
        "Try again later, or make the call smaller. The call was not charged.",
    ),
    Refusal.UPSTREAM_OVERLOADED: ProblemType(
        503,
        "Upstream overloaded",
        "All connections to the service behind this gateway are busy, or it has failed repeatedly and is paused.",
        "Try again after a pause that grows with each attempt. The call was not charged.",
    ),
    Refusal.METERING_UNAVAILABLE: ProblemType(
        503,
        "Metering unavailable",
        "The gateway cannot reach the store of its counters (Redis).",
        "Try again after `Retry-After`. The call was not charged.",
    ),
    Refusal.ACCOUNTS_UNAVAILABLE: ProblemType(
        503,
        "Accounts unavailable",
        "The gateway cannot reach the database of accounts (PostgreSQL).",
        "Try again after `Retry-After`. The call was not charged.",
    ),
}

_LISTENER: Mapping[str, ProblemType] = {  # before there is a request
    "request_timeout": ProblemType(
        408,
        "Request timed out",
        "The request's head or body stopped arriving.",
        "Send the request again without a pause.",
    ),
    "uri_too_long": ProblemType(
        414, "URI too long", "The path and query are longer than 8 KiB.", "Move data from the query into the body."
    ),
    "expectation_failed": ProblemType(
        417,
        "Expectation failed",
        "`Expect` asks for something other than `100-continue`.",
        "Leave the `Expect` field out.",
    ),
    "headers_too_large": ProblemType(
        431,
        "Headers too large",
        "The request has too many header fields, or they are too long.",
        "Send fewer or shorter fields; large cookies are the usual cause.",
    ),
    "not_implemented": ProblemType(
        501,
        "Not implemented",
        "The gateway does not implement the method or the transfer coding.",
        "Use a common method, and no transfer coding but `chunked`.",
    ),
    "too_many_connections": ProblemType(
        503,
        "Too many connections",
        "The gateway serves as many connections as it can.",
        "Reuse connections, and try again after a pause.",
    ),
    "shutting_down": ProblemType(
        503,
        "Shutting down",
        "The gateway process that the connection leads to stops, and did not finish the request in time.",
        "Try again after `Retry-After`, on a new connection. The call was not charged.",
    ),
    "version_not_supported": ProblemType(
        505,
        "HTTP version not supported",
        "The request is neither HTTP/1.1 nor HTTP/1.0.",
        "Use HTTP/1.1.",
    ),
}

_APIS: Mapping[str, ProblemType] = {  # the account API and the admin API
    "unauthorized": ProblemType(
        401,
        "Not authenticated",
        "The request carries no token, or one that is not valid or no longer so.",
        "Log in again, or send a valid token as `Authorization: Bearer TOKEN`.",
    ),
    "forbidden": ProblemType(
        403,
        "Forbidden",
        "The account may not do this.",
        "Ask the operator of this gateway.",
    ),
    "insufficient_scope": ProblemType(
        403,
        "Insufficient scope",
        "The admin token lacks the scope that `scope` names.",
        "Use a token that has the scope.",
    ),
    "not_found": ProblemType(
        404,
        "Not found",
        "There is no such path or object, or it belongs to another account.",
        "Check the path and the id.",
    ),
    "conflict": ProblemType(
        409,
        "Conflict",
        "The object is not in a state that allows this, or another object has the same unique value.",
        "Read the object again, and act as `detail` says.",
    ),
    "precondition_failed": ProblemType(
        412,
        "Precondition failed",
        "The object is not the one that `If-Match` names any more: somebody has changed it since.",
        "Read the object again, then repeat the change with its `ETag`.",
    ),
    "validation_failed": ProblemType(
        422,
        "Validation failed",
        "Some fields are missing or wrong; `errors` names each.",
        "Correct the fields that `errors` names.",
    ),
    "overloaded": ProblemType(
        503, "Overloaded", "The gateway is busy with requests of this kind.", "Try again after `Retry-After`."
    ),
    "payments_not_configured": ProblemType(
        501,
        "Payments not configured",
        "The operator has configured no payment provider, or not all that it needs.",
        "Ask the operator of this gateway.",
    ),
    "payment_refused": ProblemType(
        409,
        "Payment provider refused",
        "The payment provider has refused the operation; `detail` gives its reason.",
        "Correct what the provider names, for example the means of payment.",
    ),
    "payment_unavailable": ProblemType(
        503, "Payment provider unavailable", "The payment provider did not respond.", "Try again after `Retry-After`."
    ),
    "invalid_webhook": ProblemType(
        400,
        "Invalid webhook",
        "The webhook's signature, timestamp or body is not valid.",
        "Compare the webhook secret of the gateway with that of the provider, and both clocks.",
    ),
    "internal_error": ProblemType(
        500,
        "Internal error",
        "The gateway failed because of a defect.",
        "Send the `request_id` to the operator, who finds it in the logs. A proxied call was not charged.",
    ),
}

SECTIONS: Mapping[str, Mapping[str, ProblemType]] = MappingProxyType(
    {"Proxied requests": _PROXIED_REQUESTS, "Before there is a request": _LISTENER, "Account and admin API": _APIS}
)
PROBLEM_TYPES: Mapping[str, ProblemType] = MappingProxyType(
    {str(code): kind for section in SECTIONS.values() for code, kind in section.items()}
)
STATUS: Mapping[str, int] = MappingProxyType({code: kind.status for code, kind in PROBLEM_TYPES.items()})


def type_uri(code: str) -> str:
    """The relative reference that both listeners serve (RFC 9457 section 3.1.1); it needs no configured host."""
    return f"/problems/{code}"
