"""The account API, served by the public listener."""

from gateway.api.account.app import account_dependencies, build_account

__all__ = ["account_dependencies", "build_account"]
