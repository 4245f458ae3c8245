"""The account API, served by the public listener."""

from gateway.api.account.app import build_account

__all__ = ["build_account"]
