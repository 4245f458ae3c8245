"""The official Node clients of AI APIs, unmodified but for their address and key: right content, right charge.

`make node-clients` installs them; without them these tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.guarantees.ai import providers
from tests.guarantees.ai.providers import CHAT_USAGE, TEXT
from tests.guarantees.ai.test_clients import CHAT_CHARGE, CLAUDE_CHARGE, GEMINI_CHARGE, RESPONSE_CHARGE, charges
from tests.proxy.data_plane import Account, DataPlane

SCRIPTS = Path(__file__).parent / "node"
INSTALLED = Path(__file__).parents[3] / "build" / "node-clients"
SCRIPT_SECONDS = 60

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (INSTALLED / ".installed").exists(), reason="the Node clients are not installed: make node-clients"
    ),
]


@pytest.fixture
async def account(data_plane: DataPlane) -> Account:
    data_plane.upstream.answer = providers.answer
    return await data_plane.create_account(credits=1_000_000)


async def run_script(name: str, data_plane: DataPlane, account: Account) -> Any:
    """What the script prints. It finds its packages in its working directory, since it comes by standard input."""
    place = {"PATH": os.environ["PATH"], "GATEWAY_URL": data_plane.url, "GATEWAY_KEY": account.key}
    pipe = asyncio.subprocess.PIPE
    node = await asyncio.create_subprocess_exec(
        "node", "--input-type=module", cwd=INSTALLED, env=place, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(SCRIPT_SECONDS):
            printed, failure = await node.communicate((SCRIPTS / name).read_bytes())
    finally:
        if node.returncode is None:
            node.kill()
    assert node.returncode == 0, failure.decode()
    return json.loads(printed)


async def test_openai_documents_and_streams(data_plane: DataPlane, account: Account) -> None:
    found = await run_script("openai.mjs", data_plane, account)
    assert found == [TEXT, TEXT, CHAT_USAGE["total_tokens"], TEXT, TEXT, TEXT]
    assert await charges(data_plane, account) == [CHAT_CHARGE] * 4 + [RESPONSE_CHARGE] * 2


async def test_anthropic_document_and_streams(data_plane: DataPlane, account: Account) -> None:
    assert await run_script("anthropic.mjs", data_plane, account) == [TEXT] * 3
    assert await charges(data_plane, account) == [CLAUDE_CHARGE] * 3


async def test_gemini_document_and_stream(data_plane: DataPlane, account: Account) -> None:
    assert await run_script("gemini.mjs", data_plane, account) == [TEXT] * 2
    assert await charges(data_plane, account) == [GEMINI_CHARGE] * 2


async def test_ai_sdk_documents_and_streams_of_each_provider(data_plane: DataPlane, account: Account) -> None:
    assert await run_script("ai.mjs", data_plane, account) == [TEXT] * 8
    each = (CHAT_CHARGE, RESPONSE_CHARGE, CLAUDE_CHARGE, GEMINI_CHARGE)
    assert await charges(data_plane, account) == [charge for charge in each for _ in range(2)]
