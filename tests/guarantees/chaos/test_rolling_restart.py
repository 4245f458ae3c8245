"""Proxies behind nginx are restarted one after the other under load, and no call fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from gateway.cli.installation import prepare
from gateway.config import load
from gateway.runtime.stores import StoreUrls
from tests.guarantees.chaos.conftest import measured
from tests.guarantees.chaos.rolling import DOCUMENT, Load, Process, called, free_ports, serving
from tests.guarantees.simulation.nginx import NGINX, nginx
from tests.guarantees.simulation.served_gateway import SECRETS, Served, create_account
from tests.proxy import upstream as upstreams
from tests.support.sampling import scaled

ROLLS = scaled(suite=1, full=20)
AFTERWARDS_SECONDS = 0.5  # of calls, once the last proxy is back


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
async def test_rolling_restart_behind_nginx_fails_no_call(
    tmp_path: Path, own_database_url: str, own_redis_url: str
) -> None:
    *ports, kept, new = free_ports(4)
    async with upstreams.running() as upstream:
        (tmp_path / "gateway.yaml").write_text(DOCUMENT.format(upstream=upstream.url))
        places = {
            **SECRETS,
            "GATEWAY_DATABASE__URL": own_database_url,
            "GATEWAY_REDIS__URL": own_redis_url,
            "GATEWAY_DATA_DIR": str(tmp_path / "data"),
        }
        config = load(tmp_path / "gateway.yaml", places)
        await prepare(config, StoreUrls(own_database_url, own_redis_url))
        load_ = Load(await create_account(config), kept, new)
        own = [{"GATEWAY_SERVER__PUBLIC": f"127.0.0.1:{each}"} for each in ports]
        proxies = [Process("proxy", tmp_path, {**places, **each}) for each in own]
        async with serving(proxies), nginx(tmp_path / "nginx", gateways=ports, kept=kept, new=new) as front:
            began_at = asyncio.get_running_loop().time()
            async with called(load_):
                for proxy in proxies * ROLLS:
                    await proxy.replace()
                await asyncio.sleep(AFTERWARDS_SECONDS)
            said = front.errors.read_text()
        assert proxies[0].process is not None
        rows = await Served(proxies[0].process, "", "", config, front.errors, load_.key).rows()
    calls = load_.answers.total()
    rate = calls / (asyncio.get_running_loop().time() - began_at)
    measured.append(f"{ROLLS} rolling restarts of two proxies: {dict(load_.answers)}, {rate:.0f} calls/s")

    assert load_.answers.keys() == {"GET 200", "POST 200"}, said
    assert Counter((outcome, charged) for _, outcome, charged in rows) == {("succeeded", 1): calls}
