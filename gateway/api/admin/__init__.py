"""The admin API: everything an operator can see and change."""

from gateway.api.admin.app import build_admin

__all__ = ["build_admin"]
