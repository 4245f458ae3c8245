"""Asks each provider, after the start, whether its API key may do what the gateway needs."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from gateway.payments.provider import Provider, ProviderRefused, ProviderUnavailable

log = structlog.get_logger(__name__)


class KeyPermissionWorker:
    """Names what a restricted key lacks, before the first customer needs it; it stops nothing.

    A key that lacks something is asked again, since an operator may add permissions to it, and named once.
    """

    idle_seconds = 300.0

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._unchecked = list(providers)
        self._named: dict[str, tuple[str, ...]] = {}

    async def run_once(self) -> int:
        """Returns 0, so that a pause follows."""
        for provider in tuple(self._unchecked):
            try:
                missing = await provider.missing_permissions()
            except (ProviderUnavailable, ProviderRefused) as error:
                log.warning("provider_key_unchecked", provider=provider.name, reason=str(error))
                continue
            if not missing:
                self._unchecked.remove(provider)
            if missing != self._named.get(provider.name, ()):
                self._name(provider.name, missing)
        return 0

    def _name(self, provider: str, missing: tuple[str, ...]) -> None:
        self._named[provider] = missing
        if missing:
            log.error("provider_key_lacks_permissions", provider=provider, permissions=list(missing))
        else:
            log.info("provider_key_has_permissions", provider=provider)
