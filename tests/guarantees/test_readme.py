"""Every block of the README runs as it stands, in its order, in one shell beside a running demo."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

from gateway.config import load
from tests.guarantees.demo import Running

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDES = ("docs/guides/sell-an-ai-api.md", "docs/guides/stripe.md")
PAGES = ("README.md", "docs/payments.md", *GUIDES)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
USAGE_SECONDS = 30
# curl fails where the gateway refuses, and ends each response with a line break.
STRICT = 'set -euo pipefail\ncurl() { command curl --fail --show-error --no-progress-meter "$@"; echo; }\n'
CURL_7_74 = {"-s", "-X", "-H", "-d", "-F", "-N"}
SECRETS = {
    "OPENAI_API_KEY": "sk-example",
    "GATEWAY_ADMIN_TOKEN": "a" * 32,
    "GATEWAY_KEY_PEPPER": "p" * 32,
    "GATEWAY_JWT_SECRET": "j" * 32,
    "GATEWAY_WEBHOOK_SECRET": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",
    "STRIPE_SECRET_KEY": "sk_test_1",
    "STRIPE_WEBHOOK_SECRET": "whsec_1",
    "LEMON_SQUEEZY_API_KEY": "key",
    "LEMON_SQUEEZY_WEBHOOK_SECRET": "secret",
}


def blocks(page: str = README) -> list[tuple[str, str]]:
    return BLOCK.findall(page)


def test_readme_runs_as_it_stands(demo: Running) -> None:
    output = _run(demo, _script(demo, blocks()))
    responses = [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    def response_with(member: str) -> dict[str, Any]:
        return next(each for each in responses if member in each)

    assert [len(each["descriptions"]) for each in responses if "descriptions" in each] == [2, 1, 1, 2]
    assert [plan["id"] for plan in response_with("data")["data"]] == ["free", "basic", "pro", "enterprise"]
    assert response_with("admitted")["credits"] == 2
    assert response_with("scopes")["name"] == "support"
    assert "id,created_at,kind,amount,balance_after" in output
    assert "differences 0" in output


async def test_readme_call_is_in_usage_and_ledger(demo: Running) -> None:
    script = _script(demo, blocks()).partition("curl -s -X DELETE")[0] + 'echo "the token is $token"\n'
    token = (await asyncio.to_thread(_run, demo, script)).rpartition("the token is ")[2].strip()
    async with httpx.AsyncClient(base_url=demo.public_url, headers={"authorization": f"Bearer {token}"}) as client:
        async with asyncio.timeout(USAGE_SECONDS):
            while not (calls := (await client.get("/me/usage")).json()["data"]):  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.05)
        entries = (await client.get("/me/ledger")).json()["data"]

    (call,) = calls
    assert (call["endpoint"], call["computed"]) == ("generate", "1 credit per item x 2 items, at least 1")
    assert call["balance_after"] == 8
    assert [(entry["kind"], entry["amount"], entry["balance_after"]) for entry in entries] == [
        ("usage", -2, 8),
        ("grant", 10, 10),
    ]


def test_readme_says_that_the_demo_answers_on_this_machine_only(demo: Running) -> None:
    for url in (demo.public_url, demo.admin_url):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url.replace("127.0.0.1", "127.0.0.2"))  # a listener of all addresses would answer
    assert "The demo answers on this machine only" in " ".join(README.split())


def test_readme_says_that_a_database_of_ones_own_is_migrated_first() -> None:
    """What `gateway serve` refuses to start without: tests/cli/test_serving.py."""
    own = README.partition("database: {url:")[2].partition("### ")[0]
    assert own.index("gateway migrate up") < own.index("gateway check")


def test_readme_marks_every_block_with_what_runs_it() -> None:
    assert {kind for kind, _ in blocks()} == {"shell", "bash", "python", "yaml"}


def test_readme_commands_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z ]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [
        line.partition("#")[0].strip() for kind, block in blocks() if kind == "shell" for line in block.split("\n")
    ]
    assert {command.removeprefix("make ") for command in commands if command} <= targets


def test_readme_uses_only_flags_that_curl_7_74_knows() -> None:
    flags = {flag for line in README.split("\n") if "curl" in line for flag in re.findall(r"(?<=\s)--?[\w-]+", line)}
    assert flags <= CURL_7_74 | {"--email"}


@pytest.mark.parametrize("page", PAGES)
def test_documented_settings_are_valid(page: str, tmp_path: Path) -> None:
    whole = yaml.safe_load((ROOT / "gateway.yaml").read_text())
    snippets = [block for kind, block in blocks((ROOT / page).read_text()) if kind == "yaml"]
    assert snippets
    for snippet in snippets:
        file = tmp_path / "gateway.yaml"
        file.write_text(yaml.safe_dump(whole | yaml.safe_load(snippet)))
        load(file, SECRETS, persist_secrets=False)


@pytest.mark.parametrize("page", GUIDES)
def test_guide_begins_with_a_whole_configuration(page: str, tmp_path: Path) -> None:
    kinds_and_blocks = blocks((ROOT / page).read_text())
    file = tmp_path / "gateway.yaml"
    file.write_text(next(block for kind, block in kinds_and_blocks if kind == "yaml"))
    assert load(file, SECRETS, persist_secrets=False).routes


def _script(demo: Running, chosen: list[tuple[str, str]]) -> str:
    """The blocks in order, for this demo's addresses and folder and for customers of this run."""
    folder, domain = str(demo.data_dir).replace(" ", "\\ "), f"{uuid4().hex}.example.com"
    script = "\n".join(_in_bash(kind, block) for kind, block in chosen if kind in ("bash", "python"))
    for documented, actual in (
        ("http://127.0.0.1:8080", demo.public_url),
        ("http://127.0.0.1:8081", demo.admin_url),
        (".gateway/", f"{folder}/"),
        ("@example.com", f"@{domain}"),
    ):
        script = script.replace(documented, actual)
    return STRICT + script


def _in_bash(kind: str, block: str) -> str:
    return block if kind == "bash" else f"{sys.executable} - <<'PYTHON'\n{block}PYTHON\n"


def _run(demo: Running, script: str) -> str:
    environment = os.environ | {"GATEWAY_DATA_DIR": str(demo.data_dir)}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, timeout=120, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
