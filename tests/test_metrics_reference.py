"""docs/reference/metrics.md names every series that the gateway declares."""

from __future__ import annotations

from pathlib import Path

from gateway.metrics_reference import markdown

PAGE = Path(__file__).parents[1] / "docs/reference/metrics.md"


def test_metrics_reference_is_what_the_module_declares() -> None:
    assert PAGE.read_text("utf-8") == markdown(), "run `make reference`"


def test_metrics_reference_names_series_as_prometheus_serves_them() -> None:
    assert "| `gateway_requests_total` | counter | `endpoint`, `method`, `code` |" in markdown()
    assert "| `gateway_request_duration_seconds` | histogram | `endpoint` |" in markdown()
