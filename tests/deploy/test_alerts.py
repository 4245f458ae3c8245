"""Each alert fires on its fault within its time and clears after it, as Prometheus evaluates the rules."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed here")


@dataclass(frozen=True)
class Fault:
    """Series by minute in promtool's notation, with the minutes at which the alert is quiet, fires, and is quiet again.

    The fault begins in the sixth minute: `0x5` are six values.
    """

    alert: str
    series: dict[str, str]
    fires: int
    clears: int


def refusals(code: str) -> dict[str, str]:
    return {f'gateway_refusals_total{{endpoint="chat",code="{code}"}}': "0x5 0+6x10 60x20"}


def counted_calls(series: str) -> dict[str, str]:
    """Calls of two routes, of which one in ten of one route is counted, for twenty minutes."""
    calls = {f'gateway_request_duration_seconds_count{{endpoint="{each}"}}': "0+60x60" for each in ("chat", "other")}
    return {**calls, series: "0x5 0+6x20 120x20"}


FAULTS = (
    Fault("GatewayNotScraped", {'up{job="gateway",instance="a"}': "1x5 0x5 1x5"}, 8, 14),
    Fault(
        "GatewayNotScraped",
        {'up{job="node",instance="a"}': "1x5 1x20", 'up{job="gateway"}': "1x5 stale _x9 1x5"},
        9,
        18,
    ),
    Fault("GatewayProcessNotReady", {'gateway_process_ready{process="proxy-0"}': "1x5 0x5 1x5"}, 8, 14),
    Fault("GatewayProcessesDie", {'gateway_process_restarts_total{process="proxy-0"}': "0x5 1 2 3 4 4x30"}, 10, 35),
    Fault("GatewayReloadRefused", {'gateway_config_reloads_total{result="refused"}': "0x5 1x80"}, 8, 75),
    Fault("GatewayNoWorker", {"gateway_journal_lag_seconds": "0x5 stale _x9 0x5"}, 9, 18),
    Fault(
        "GatewayAnswersWithErrors",
        {
            'gateway_requests_total{code="200"}': "0+60x60",
            'gateway_requests_total{code="503"}': "0x5 0+6x20 120x20",
        },
        15,
        35,
    ),
    Fault("GatewayCannotMeter", refusals("metering_unavailable"), 12, 30),
    Fault("GatewayCannotReadAccounts", refusals("accounts_unavailable"), 12, 30),
    Fault(
        "GatewayIsSlow",
        {
            'gateway_overhead_seconds_bucket{le="0.1"}': "0+60x5 300x25 300+60x20",
            'gateway_overhead_seconds_bucket{le="1"}': "0+60x60",
            'gateway_overhead_seconds_bucket{le="+Inf"}': "0+60x60",
        },
        25,
        45,
    ),
    Fault("GatewayUpstreamDown", {'gateway_upstream_breaker_open{upstream="ai"}': "0x5 1x5 0x5"}, 8, 14),
    Fault("GatewaySignInsFail", {'gateway_failed_sign_ins_total{kind="password"}': "0x5 0+120x15 1800x15"}, 15, 35),
    Fault("GatewayJournalLags", {"gateway_journal_lag_seconds": "0x5 400x9 0x5"}, 13, 18),
    Fault("GatewayJournalEntryRefused", {"gateway_journal_poison_total": "0x5 1x80"}, 8, 75),
    Fault("GatewayUsageNotArchived", {"gateway_usage_archive_failures_total": "0x5 1x250"}, 8, 200),
    Fault("GatewayUsageSinkLags", {"gateway_usage_sink_lag_seconds": "0x5 8000x14 0x5"}, 18, 23),
    Fault("GatewaySettlementsLost", {"gateway_settlements_lost_total": "0x5 1x80"}, 8, 75),
    Fault("GatewaySettlementsLost", {"gateway_spool_failures_total": "0x5 1x80"}, 8, 75),
    Fault("GatewaySpoolGrows", {"gateway_spool_entries": "0x5 3x14 0x5"}, 18, 23),
    Fault("GatewayNewerRecordsWait", {"gateway_journal_newer_partitions": "0x5 1x14 0x5"}, 18, 23),
    Fault("GatewayNewerRecordsWait", {"gateway_spool_newer_files": "0x5 2x14 0x5"}, 18, 23),
    Fault("GatewayStoreWentBack", {'gateway_epochs_begun_total{reason="postgresql_behind"}': "0x5 64x80"}, 8, 75),
    Fault("GatewayStoreWentBack", {'gateway_epochs_begun_total{reason="redis_behind"}': "0x5 64x80"}, 8, 75),
    Fault("GatewayUsageMissing", counted_calls('gateway_usage_missing_total{endpoint="chat",reason="absent"}'), 25, 45),
    Fault("GatewayChargesCut", counted_calls('gateway_charges_cut_total{endpoint="chat",maximum="price"}'), 25, 45),
    Fault("GatewayBooksDisagree", {"gateway_reconcile_difference_credits": "0x5 7x5 0x5"}, 8, 14),
    Fault("GatewayAccountsSetAside", {'gateway_worker_parked{worker="renewals"}': "0x5 1x14 0x5"}, 18, 23),
    Fault(
        "GatewayPaymentEventsFail",
        {'gateway_webhook_events_total{provider="stripe",event_type="invoice.paid",result="failed"}': "_x6 1x140"},
        8,
        75,
    ),
    Fault(
        "GatewayPaymentEventsFail",
        {'gateway_webhook_events_total{provider="stripe",event_type="invoice.paid",result="failed"}': "3x75 4x140"},
        78,
        150,
    ),
)


QUIET = {
    "one call without its usage": {
        'gateway_request_duration_seconds_count{endpoint="chat"}': "0x5 1x60",
        'gateway_usage_missing_total{endpoint="chat",reason="absent"}': "0x5 1x60",
    },
    "one charge that was cut": {
        'gateway_request_duration_seconds_count{endpoint="chat"}': "0x5 1x60",
        'gateway_charges_cut_total{endpoint="chat",maximum="plan"}': "0x5 1x60",
    },
    "clients that leave": counted_calls('gateway_usage_missing_total{endpoint="chat",reason="left"}'),
    "reloads that are applied": {
        'gateway_config_reloads_total{result="applied"}': "0+1x60",
        'gateway_config_reloads_total{result="refused"}': "0x60",
    },
}
NEVER: list[dict[str, object]] = [
    {"expr": 'count(ALERTS{alertstate="firing"})', "eval_time": f"{minute}m", "exp_samples": []} for minute in range(60)
]


def expression(fault: Fault, minute: int, *, fires: bool) -> dict[str, object]:
    query = f'count(ALERTS{{alertname="{fault.alert}",alertstate="firing"}})'
    return {"expr": query, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": 1}] if fires else []}


def evaluated(
    folder: Path, series: dict[str, str], expected: list[dict[str, object]]
) -> subprocess.CompletedProcess[str]:
    test = {
        "interval": "1m",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "promql_expr_test": expected,
    }
    file = folder / "alerts.test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    return subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)


def test_every_alert_has_a_fault() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    assert {fault.alert for fault in FAULTS} == {rule["alert"] for group in groups for rule in group["rules"]}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.alert)
def test_alert_fires_on_its_fault_and_clears(fault: Fault, tmp_path: Path) -> None:
    begins = 75 if fault.fires > 70 else 5
    expected = [
        expression(fault, begins, fires=False),
        expression(fault, fault.fires, fires=True),
        expression(fault, fault.clears, fires=False),
    ]
    tested = evaluated(tmp_path, fault.series, expected)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("series", QUIET.values(), ids=QUIET)
def test_no_alert_fires_for_what_is_in_order(series: dict[str, str], tmp_path: Path) -> None:
    tested = evaluated(tmp_path, {"gateway_journal_lag_seconds": "0x60", 'up{job="gateway"}': "1x60", **series}, NEVER)
    assert tested.returncode == 0, tested.stdout + tested.stderr
