"""What is shipped for Prometheus and Grafana asks for series that the gateway serves, and strangers add none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from gateway import metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
RUNBOOKS = DEPLOY.parent / "docs" / "runbooks.md"
SERIES = re.compile(r"\bgateway_\w+")
SCRAPED = re.compile(r"\bup\{")  # Prometheus itself makes this series
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed here")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "gateway.json").read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])


def served() -> dict[str, set[str]]:
    """The names of all series by kind of metric, with their labels."""
    found: dict[str, set[str]] = {}
    for family in REGISTRY.collect():
        declared = next((each for each in vars(metrics).values() if getattr(each, "_name", None) == family.name), None)
        labels = set(getattr(declared, "_labelnames", ()))
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        for suffix in suffixes:
            found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def test_every_expression_asks_for_what_is_served() -> None:
    known = served()
    for expression in expressions():
        if SCRAPED.search(expression):
            continue
        asked = SERIES.findall(expression)
        assert asked, expression
        assert set(asked) <= known.keys(), expression
        labels = {label for name in asked for label in known[name]}
        matched = re.findall(r"by \(([^)]*)\)|\{([^}]*)\}", expression)
        wanted = {re.split(r"[=!]", part)[0].strip() for pair in matched for some in pair for part in some.split(",")}
        assert wanted - {""} <= labels, expression


def test_the_dashboard_shows_all_that_the_contract_names() -> None:
    shown = set(SERIES.findall(" ".join(target["expr"] for panel in panels() for target in panel["targets"])))
    missing = {
        name
        for name in ("requests", "refusals", "upstream_requests", "credits_charged", "credits_released", "admitted")
        if f"gateway_{name}_total" not in shown
    }
    assert not missing
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), re.MULTILINE)
    assert sections == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{rule['alert'].lower()}"


def test_runbooks_name_series_that_are_served() -> None:
    names = served().keys()
    histograms = {name.removesuffix("_bucket") for name in names}
    assert set(SERIES.findall(RUNBOOKS.read_text())) <= names | histograms


@promtool
def test_promtool_takes_the_rules() -> None:
    checked = subprocess.run(
        ["promtool", "check", "rules", str(DEPLOY / "prometheus" / "alerts.yml")], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@promtool
def test_promtool_takes_what_is_served() -> None:
    metrics.REQUESTS.labels("analyze", "POST", "200").inc(0)
    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics.exposition(), capture_output=True)
    ours = [line for line in checked.stderr.decode().splitlines() if line.startswith("gateway_")]
    assert not ours
