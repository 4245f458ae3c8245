"""What the settings of the public listener allow a client."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import load
from gateway.runtime.roles import client_limits

CONFIG = """
server: {{public: "127.0.0.1:0", max_connections_per_address: {limit}}}
upstreams: {{main: {{targets: ["http://127.0.0.1:9"]}}}}
routes: [{{name: call, match: {{path: /call}}, upstream: main, price: {{credits: 1}}}}]
"""


@pytest.mark.parametrize(("written", "limit"), [("0", None), ("3", 3)])
def test_connections_of_an_address_have_the_limit_that_is_written(
    tmp_path: Path, written: str, limit: int | None
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG.format(limit=written))
    config = load(path, {}, persist_secrets=False)
    assert client_limits(config.server).max_connections_per_address == limit
