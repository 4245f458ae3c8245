"""Sends notifications to the operator's system by POST, signed as Standard Webhooks says, one id for all attempts.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx
import standardwebhooks

from gateway.clock import now
from gateway.notifications import DeliveryFailed

TIMEOUT_SECONDS = 15.0
_PREFIX = "whsec_"
_GONE = 410  # the endpoint wants no more of them


class Webhook:
    """One endpoint. Signs with every secret, so that the operator can replace one while the other still verifies."""

    def __init__(self, url: str, secrets: Sequence[str], http: httpx.AsyncClient) -> None:
        self._url = url
        self._signers = [standardwebhooks.Webhook(key_of(secret)) for secret in secrets]
        self._http = http

    async def send(self, notification_id: str, kind: str, *, created_at: datetime, data: Mapping[str, Any]) -> None:
        """Raises DeliveryFailed unless the response is 2xx."""
        body = json.dumps({"type": kind, "timestamp": created_at.isoformat(), "data": data}, ensure_ascii=False)
        signed_at = now()
        signatures = [signer.sign(notification_id, signed_at, body) for signer in self._signers]
        headers = {
            "content-type": "application/json",
            "user-agent": "metering-gateway",
            "webhook-id": notification_id,
            "webhook-timestamp": str(int(signed_at.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        request = self._http.stream("POST", self._url, content=body.encode(), headers=headers, timeout=TIMEOUT_SECONDS)
        try:
            async with request as response:  # its body is never read: the status says all
                pass
        except httpx.HTTPError as error:
            raise DeliveryFailed(str(error) or type(error).__name__) from error
        if not response.is_success:
            raise DeliveryFailed(f"answered {response.status_code}", is_final=response.status_code == _GONE)


def key_of(secret: str) -> bytes:
    """The bytes behind `whsec_` and base64; another secret gives its own bytes."""
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX) + "==")
        except binascii.Error:
            pass
    return secret.encode()
