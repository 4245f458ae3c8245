"""Fixtures of the rooms whose processes are killed and frozen here."""

from __future__ import annotations

from tests.embedded.test_stores import data_dir
from tests.meter.conftest import cluster
from tests.workers.conftest import backend

__all__ = ["backend", "cluster", "data_dir"]
