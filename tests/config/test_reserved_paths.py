"""The account API reserves paths of the public listener."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, load
from gateway.config.routes import is_reserved

SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}


@pytest.mark.parametrize(
    "path", ["/me", "/me/", "/me/keys", "/auth/login", "/plans", "/webhooks/stripe", "/docs", "/problems/x"]
)
def test_path_of_the_account_api_is_reserved(path: str) -> None:
    assert is_reserved(path.encode())


@pytest.mark.parametrize("path", ["/", "/**", "/v1/me", "/men", "/me;x", "/%6de", "//me", "/ME", "*", ""])
def test_other_path_is_not_reserved(path: str) -> None:
    assert not is_reserved(path.encode())


@pytest.mark.parametrize("path", ["/me", "/me/**", "/auth/login", "/plans/**", "/openapi.json"])
def test_route_on_a_path_of_the_account_api_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        _load(tmp_path, path)
    assert "belongs to the account API, which keeps /auth, /me, " in str(refused.value)
    assert "gateway.yaml:3" in str(refused.value)


def test_route_for_everything_is_no_conflict(tmp_path: Path) -> None:
    _load(tmp_path, "/**")


def _load(folder: Path, path: str) -> None:
    file = folder / "gateway.yaml"
    file.write_text(f"""
upstreams: {{main: {{targets: [http://127.0.0.1:9000]}}}}
routes: [{{name: r, upstream: main, match: {{path: {path}, methods: [GET]}}, price: {{credits: 0}}}}]
""")
    load(file, SECRETS, overrides={"data_dir": str(folder)})
