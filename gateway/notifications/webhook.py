"""Sends notifications to the operator's system by POST, signed as Standard Webhooks says, one id for all attempts.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx

from gateway.clock import now
from gateway.notifications import DeliveryFailed

TIMEOUT_SECONDS = 15.0
_PREFIX = "whsec_"
_GONE = 410  # the endpoint wants no more of them


class Webhook:
    """One endpoint. Signs with every secret, so that the operator can replace one while the other still verifies."""

    def __init__(self, url: str, secrets: Sequence[str], http: httpx.AsyncClient) -> None:
        self._url = url
        self._keys = [key_of(secret) for secret in secrets]
        self._http = http

    async def send(self, notification_id: str, kind: str, *, created_at: datetime, data: Mapping[str, Any]) -> None:
        """Raises DeliveryFailed unless the response is 2xx."""
        body = json.dumps(
            {"type": kind, "timestamp": created_at.isoformat(), "data": data}, ensure_ascii=False
        ).encode()
        timestamp = str(int(now().timestamp()))
        headers = {
            "content-type": "application/json",
            "user-agent": "metering-gateway",
            "webhook-id": notification_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(
                sign(key, notification_id, timestamp=timestamp, body=body) for key in self._keys
            ),
        }
        try:
            response = await self._http.post(self._url, content=body, headers=headers, timeout=TIMEOUT_SECONDS)
        except httpx.HTTPError as error:
            raise DeliveryFailed(str(error) or type(error).__name__) from error
        if not response.is_success:
            raise DeliveryFailed(f"answered {response.status_code}", is_final=response.status_code == _GONE)


def sign(key: bytes, notification_id: str, *, timestamp: str, body: bytes) -> str:
    """One signature: `v1,` and the HMAC-SHA-256 of id, time and body in base64."""
    signed = b"%s.%s.%s" % (notification_id.encode(), timestamp.encode(), body)
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def key_of(secret: str) -> bytes:
    """The bytes behind `whsec_` and base64; another secret gives its own bytes."""
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX) + "==")
        except binascii.Error:
            pass
    return secret.encode()
