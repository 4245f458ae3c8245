"""Whom a request to a private listener may be addressed to.

A page of any website can point a name of its own at 127.0.0.1 and read what answers there as its own origin (DNS
rebinding). It can forge neither the Host field nor an address as the host, so names are checked and addresses are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@\s]*)(:[0-9]*)?", re.ASCII)


class KnownHosts:
    """Addresses, `localhost`, names without a dot, and `names`.

    Nobody can register a name without a dot, and services find each other by such names in containers.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.lower().rstrip(".") for name in names)

    def first_unknown(self, hosts: Iterable[str]) -> str | None:
        """The first of these values of Host that names none of them."""
        return next((host for host in hosts if not self._is_known(host)), None)

    def _is_known(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1].rstrip(".")
        return "." not in name or name in self._names or name.endswith(".localhost") or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
