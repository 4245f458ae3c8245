"""Idempotency-Key on a proxied POST: the claim of a request, and the response that is stored for replays."""

from __future__ import annotations

from typing import Literal, NamedTuple
from uuid import UUID

from gateway.http.fields import HeaderBlock
from gateway.meter.admissions import Admission
from gateway.meter.idempotency import ClaimOutcome, IdempotencyClaim
from gateway.meter.replies import Verdict
from gateway.paced_subjects import PacedSubjects
from gateway.proxy.admission.caller import Caller
from gateway.proxy.request.body import WholeBody
from gateway.proxy.request.inbound import Inbound
from policies import idempotency
from policies.access.throttling import REPLAYS_IN_ALL, REPLAYS_OF_ACCOUNT
from policies.model import Plan, Refusal, Refused, Route

_NO_CONTENT = frozenset({204, 205, 304})


class IdempotentReplay(Exception):  # noqa: N818 - an event, not a fault
    """The call was made before: its response is replayed, and nothing is counted or charged."""

    def __init__(self, route: Route, caller: Caller, admission: Admission) -> None:
        super().__init__("idempotent replay")
        self.route = route
        self.caller = caller
        self.admission = admission


class StoredResponse(NamedTuple):
    """A response as the upstream gave it: `fields` without Content-Length and without the gateway's."""

    status: int
    fields: HeaderBlock
    body: bytes

    def packed(self) -> bytes:
        return b"%d %d\n" % (self.status, len(self.fields)) + self.fields + self.body

    @classmethod
    def unpacked(cls, stored: bytes) -> StoredResponse:
        numbers, _, rest = stored.partition(b"\n")
        status, length = map(int, numbers.split(b" "))
        return cls(status, HeaderBlock(rest[:length]), rest[length:])


class ResponseCapture:
    """Records the response to a call with an Idempotency-Key. One without a length is not stored, nor a long one."""

    def __init__(self, claim: IdempotencyClaim, *, is_stored: bool = True) -> None:
        self.is_complete = False
        self._claim = claim
        self._is_stored = is_stored
        self._status = 0
        self._fields: HeaderBlock | None = None
        self._chunks: list[bytes] = []

    def begin(self, status: int, fields: HeaderBlock, content_length: bytes | None) -> None:
        self._status = status
        length = 0 if status in _NO_CONTENT else content_length
        if self._is_stored and length is not None and int(length) <= idempotency.MAX_ANSWER_BYTES:
            self._fields = fields

    def feed(self, chunk: bytes) -> None:
        if self._fields is not None and chunk:
            self._chunks.append(chunk)

    def finish(self, charge: int) -> ClaimOutcome:
        """What becomes of the claim now that the call has ended."""
        if not idempotency.is_final(self._status, is_complete=self.is_complete, charge=charge):
            return ClaimOutcome(self._claim, None)
        if self._fields is None or not self.is_complete:
            # What failed at no charge may be made again where its response cannot be replayed.
            return ClaimOutcome(self._claim, None if not charge and self._status >= 400 else b"")
        return ClaimOutcome(self._claim, StoredResponse(self._status, self._fields, b"".join(self._chunks)).packed())


def key_digest(inbound: Inbound) -> str | None:
    """The digest of a request's Idempotency-Key; None where it is no POST; raises Refused for a malformed one."""
    return idempotency.key_digest(inbound.fields[b"idempotency-key"]) if inbound.method == "POST" else None


def claim_of(digest: str, inbound: Inbound, body: WholeBody) -> IdempotencyClaim:
    content_type = inbound.fields.get(b"content-type", b"")
    return IdempotencyClaim(digest, idempotency.fingerprint(inbound.method, inbound.target, content_type, body.content))


def stores_responses(stored_for: Literal["paid_plans", "all_plans", "nobody"], plan: Plan) -> bool:
    """Whether responses to the calls of a plan are stored, by the setting of that name."""
    return stored_for == "all_plans" or (stored_for == "paid_plans" and plan.is_paid)


def refusal(verdict: Verdict, *, is_stored: bool) -> Refused:
    """Why a call whose key was used before is neither made nor replayed; `is_stored`: whether its plan has replays."""
    if verdict is Verdict.IN_PROGRESS:
        detail = "The first request with this Idempotency-Key is still running."
        return Refused(Refusal.IDEMPOTENCY_IN_PROGRESS, detail, retry_after=1)
    if verdict is Verdict.KEY_REUSED:
        detail = "This Idempotency-Key came with another request; give each request a key of its own."
        return Refused(Refusal.IDEMPOTENCY_KEY_REUSED, detail)
    because = "it was streamed, longer than 1 MiB, never complete, or beyond what is stored in a day"
    if not is_stored:
        because = "this plan has no stored answers"
    detail = (
        f"This request was made before and counts, once; its answer was not stored, because {because}. To make the "
        "request again, as another call, use a new Idempotency-Key."
    )
    return Refused(Refusal.IDEMPOTENCY_NOT_REPLAYABLE, detail)


class ReplayPace:
    """How fast an account may fetch stored responses again.

    They are replayed without a call, so no window of a plan counts them: this does. An account has a pace of its own,
    and all of them together have one, so that many cannot do what one may not.
    """

    def __init__(self) -> None:
        self._by_account = PacedSubjects(REPLAYS_OF_ACCOUNT)
        self._of_all = PacedSubjects(REPLAYS_IN_ALL)

    def check(self, account_id: UUID) -> None:
        """Raises Refused for an account that has repeated too many calls lately."""
        if not self._by_account.is_free(account_id):
            raise _repeats_too_often()

    def count(self, account_id: UUID) -> None:
        """Counts a call that was repeated; raises Refused for one too many."""
        if not (self._by_account.take(account_id) and self._of_all.take(None)):
            raise _repeats_too_often()


def _repeats_too_often() -> Refused:
    return Refused(
        Refusal.RATE_LIMITED,
        "Calls with an Idempotency-Key are repeated too often; retry in 1 s.",
        violated_policies=(),
        retry_after=1,
    )
