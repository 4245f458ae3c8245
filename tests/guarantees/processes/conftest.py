"""Fixtures of the rooms whose processes are killed and frozen here."""

from __future__ import annotations

from tests.embedded.test_stores import data_dir
from tests.workers.conftest import backend

__all__ = ["backend", "data_dir"]
