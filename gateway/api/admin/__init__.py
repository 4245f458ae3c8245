"""The admin API: everything an operator can see and change."""

from gateway.api.admin.app import AdminApi, build_admin

__all__ = ["AdminApi", "build_admin"]
