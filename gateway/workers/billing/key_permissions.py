"""Asks each provider once, after the start, whether its API key may do what the gateway needs."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from gateway.payments.provider import Provider, ProviderRefused, ProviderUnavailable

log = structlog.get_logger(__name__)


class KeyPermissionWorker:
    """Names what a restricted key lacks, before the first customer needs it; it stops nothing."""

    idle_seconds = 300.0

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._unchecked = list(providers)

    async def run_once(self) -> int:
        """Returns 0, so that a pause follows; what did not answer is asked again."""
        for provider in tuple(self._unchecked):
            try:
                missing = await provider.missing_permissions()
            except (ProviderUnavailable, ProviderRefused) as error:
                log.warning("provider_key_unchecked", provider=provider.name, reason=str(error))
                continue
            self._unchecked.remove(provider)
            if missing:
                log.error("provider_key_lacks_permissions", provider=provider.name, permissions=list(missing))
        return 0
