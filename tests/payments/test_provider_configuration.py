"""The environment decides which providers are configured: those with an API key."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config, load
from gateway.ledger.db.session import Database
from gateway.runtime.payments import build_checkout_service, open_providers, payment_workers

SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
STRIPE = {"STRIPE_SECRET_KEY": "sk_test_x", "STRIPE_WEBHOOK_SECRET": "new, old"}
LEMON_SQUEEZY = {"LEMON_SQUEEZY_API_KEY": "key", "LEMON_SQUEEZY_WEBHOOK_SECRET": "secret"}
BILLING = """
billing:
  provider: lemon_squeezy
  success_url: https://app.test/paid
  poll_interval: 5m
  tax_rate: "0.19"
  lemon_squeezy: {store_id: "7", test_mode: true}
"""


def configured(tmp_path: Path, **environ: str) -> Config:
    file = tmp_path / "gateway.yaml"
    file.write_text(BILLING)
    return load(file, SECRETS | environ, overrides={"data_dir": str(tmp_path)})


@pytest.mark.parametrize(
    ("environ", "names", "workers"),
    [
        ({}, [], []),
        (
            STRIPE,
            ["stripe"],
            [
                "WebhookProcessor",
                "KeyPermissionWorker",
                "PriceCheckWorker",
                "ProviderPoller",
                "ProviderInstructionWorker",
                "UsageReportSender",
                "TopUpWorker",
            ],
        ),
        (
            LEMON_SQUEEZY,
            ["lemon_squeezy"],
            [
                "WebhookProcessor",
                "KeyPermissionWorker",
                "PriceCheckWorker",
                "ProviderPoller",
                "ProviderInstructionWorker",
            ],
        ),
        (
            STRIPE | LEMON_SQUEEZY,
            ["lemon_squeezy", "stripe"],
            [
                "WebhookProcessor",
                "KeyPermissionWorker",
                "PriceCheckWorker",
                "ProviderPoller",
                "ProviderPoller",
                "ProviderInstructionWorker",
                "ProviderInstructionWorker",
                "UsageReportSender",
                "TopUpWorker",
            ],
        ),
    ],
)
async def test_provider_is_configured_by_its_api_key(
    tmp_path: Path, environ: dict[str, str], names: list[str], workers: list[str]
) -> None:
    config = configured(tmp_path, **environ)
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    async with open_providers(config) as providers:
        checkout_service = build_checkout_service(config, database, providers)
        assert list(checkout_service.providers) == names
        assert checkout_service.default == (names[0] if names else None)
        assert str(checkout_service.issuer.tax_rate) == "0.19"
        assert [type(each).__name__ for each in payment_workers(config, database, providers)] == workers
    await database.close()
