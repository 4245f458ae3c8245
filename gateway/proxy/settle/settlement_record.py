"""How a settlement is spooled: one line of JSON that names its version and its members.

A release reads every version that a release before it has written. What a newer one has written it leaves to that one
(docs/decisions/0019).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from gateway.meter.idempotency import ClaimOutcome, IdempotencyClaim
from gateway.meter.keys import AccountKeys
from gateway.meter.replay_buffer import Settlement
from policies.usage import records

VERSION = 2
_OUTAGE_CREDIT_EPOCH = "float"  # version 1 wrote this in place of the epoch of a call on outage credit

KeysOf = Callable[[UUID], AccountKeys]


class NewerRelease(Exception):  # noqa: N818 - a state of the deployment, not a fault of the caller
    """A newer release wrote the settlement."""


def encode(settlement: Settlement) -> bytes:
    """One line of ASCII."""
    keys, request_id, charge, suffix, prefix, epoch, outcome, is_on_outage_credit = settlement
    members = {
        "version": VERSION,
        "request_id": request_id,
        "account_id": str(keys.account_id),
        "charge": charge,
        "record": records.field_of(records.CURRENT),
        "prefix": prefix,
        "suffix": suffix,
        "epoch": epoch,
        "is_on_outage_credit": is_on_outage_credit,
        "claim": None if outcome is None else _encode_claim(outcome),
    }
    return json.dumps(members, separators=(",", ":")).encode()


def decode(payload: bytes, keys_of: KeysOf) -> Settlement:
    """Raises NewerRelease, or ValueError for what no release has written."""
    match json.loads(payload):
        case {"version": int(version)} if version > VERSION:
            raise NewerRelease(f"a settlement of version {version}")
        case {"version": 2} as members:
            return _decode_members(members, keys_of)
        case [*members]:
            return _decode_unversioned(members, keys_of)
    raise ValueError("not a settlement")


def _encode_claim(outcome: ClaimOutcome) -> dict[str, str | bool]:
    digest, fingerprint = outcome.claim
    return {"digest": digest, "fingerprint": fingerprint, "is_remembered": outcome.response is not None}


def _decode_members(members: Mapping[str, Any], keys_of: KeysOf) -> Settlement:
    match members:
        case {
            "request_id": str(request_id),
            "account_id": str(account_id),
            "charge": int(charge),
            "record": str(record),
            "prefix": str(prefix),
            "suffix": str(suffix),
            "epoch": str(epoch),
            "is_on_outage_credit": bool(is_on_outage_credit),
            "claim": claim,
        }:
            prefix, suffix = _upgrade(record, prefix, suffix)
            return Settlement(
                keys_of(UUID(account_id)),
                request_id,
                charge,
                suffix,
                prefix,
                epoch,
                _decode_claim(claim),
                is_on_outage_credit,
            )
    raise ValueError("not a settlement")


def _upgrade(record: str, prefix: str, suffix: str) -> tuple[str, str]:
    """Both halves in the current version. Raises NewerRelease."""
    version = records.parse_field(record.encode())
    if version is None:
        raise ValueError("not a record version")
    try:
        upgraded = records.upgrade_suffix(suffix, version.suffix)
        return (records.upgrade_prefix(prefix) if prefix else ""), upgraded
    except KeyError:
        raise NewerRelease(f"a settlement with a record {record}") from None


def _decode_claim(claim: object) -> ClaimOutcome | None:
    match claim:
        case None:
            return None
        case {"digest": str(digest), "fingerprint": str(fingerprint), "is_remembered": bool(is_remembered)}:
            return ClaimOutcome(IdempotencyClaim(digest, fingerprint), b"" if is_remembered else None)
    raise ValueError("not a claim")


def _decode_unversioned(members: list[Any], keys_of: KeysOf) -> Settlement:
    """Version 1, of release 0.1.0 and before: a list of four members, of six with an epoch, of nine with a claim."""
    match members:
        case [*most, str(digest), str(fingerprint), bool(is_remembered)] if len(most) == 6:
            outcome = ClaimOutcome(IdempotencyClaim(digest, fingerprint), b"" if is_remembered else None)
            return _decode_unversioned(most, keys_of)._replace(claim_outcome=outcome)
        case [str(request_id), str(account_id), int(charge), str(suffix), str(prefix), str(epoch)]:
            is_on_outage_credit = epoch == _OUTAGE_CREDIT_EPOCH
            prefix, suffix = _upgrade("r1.1", prefix, suffix)
            epoch = "" if is_on_outage_credit else epoch
            keys = keys_of(UUID(account_id))
            return Settlement(keys, request_id, charge, suffix, prefix, epoch, None, is_on_outage_credit)
        case [str(), str(), int(), str()]:
            return _decode_unversioned([*members, "", ""], keys_of)
    raise ValueError("not a settlement")
