"""Chromium without a window, driven by keys alone (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import websockets

from tests.support.sampling import IS_FULL

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(__file__).parents[3] / "build/node-clients/node_modules/axe-core/axe.min.js"
# Only a failure waits so long.
START_SECONDS, STEP_SECONDS, MAX_TABS = 60.0, 30.0, 80
PHONE = 360  # CSS pixels, of the narrowest that the pages are for
# Root has no sandbox, containers have a small /dev/shm, and no browser of a test asks its maker anything.
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--no-proxy-server"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
)
_KEYS: Mapping[str, tuple[int, str]] = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), " ": (32, " ")}
# What has the focus, as a person would tell it.
_FOCUSED = """(() => {
  const element = document.activeElement;
  if (!element || element === document.body) return "";
  return element.getAttribute("aria-label") || element.labels?.[0]?.innerText || element.innerText || element.id || "";
})()"""


class Tab:
    """A tab: what it asked for and complained of. `errors` are of the console and of scripts, `hosts` were asked."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self._reading = asyncio.create_task(self._read())

    async def start(self) -> None:
        for domain in ("Page", "Network", "Log", "Runtime"):
            await self.command(f"{domain}.enable")

    async def close(self) -> None:
        self._reading.cancel()
        await self._socket.close()

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        async with asyncio.timeout(STEP_SECONDS):
            found = await answer
        assert "error" not in found, (method, found)
        result: dict[str, Any] = found["result"]
        return result

    async def open(self, url: str) -> None:
        self._loaded.clear()
        await self.command("Page.navigate", url=url)
        await self._wait_until_loaded()

    async def evaluate(self, expression: str) -> Any:
        result = await self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def press(self, key: str, *, loads: bool = False) -> None:
        """`loads`: the key opens another page, which is awaited."""
        self._loaded.clear()
        code, text = _KEYS[key]
        pressed: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.command("Input.dispatchKeyEvent", type="keyDown", **pressed, **({"text": text} if text else {}))
        await self.command("Input.dispatchKeyEvent", type="keyUp", **pressed)
        if loads:
            await self._wait_until_loaded()

    async def type(self, text: str) -> None:
        await self.command("Input.insertText", text=text)

    async def tab_to(self, name: str) -> None:
        """Presses Tab until what is named so has the focus."""
        passed = []
        for _ in range(MAX_TABS):
            await self.press("Tab")
            focused = str(await self.evaluate(_FOCUSED)).strip()
            if focused.splitlines()[:1] == [name] or focused.startswith(f"{name} ("):
                return
            passed.append(focused)
        raise AssertionError(f"no way by Tab to {name!r}, only to {passed}")

    async def enter(self, name: str, *, loads: bool = True) -> None:
        await self.tab_to(name)
        await self.press("Enter", loads=loads)

    async def fill(self, name: str, text: str) -> None:
        await self.tab_to(name)
        await self.type(text)

    async def text(self) -> str:
        return str(await self.evaluate("document.querySelector('main').innerText"))

    async def until(self, expression: str) -> None:
        async with asyncio.timeout(STEP_SECONDS):
            while not await self.evaluate(expression):  # noqa: ASYNC110 - a page has no event to wait on
                await asyncio.sleep(0.02)

    async def violations(self, *, rules: tuple[str, ...] = ()) -> list[str]:
        """What axe-core finds wrong with the page as it is, by all of its rules or by these."""
        if not await self.evaluate("Boolean(window.axe)"):
            await self.evaluate(AXE.read_text() + "; true")
        only = json.dumps({"runOnly": {"type": "rule", "values": rules}} if rules else {"resultTypes": ["violations"]})
        found = await self.evaluate(
            f"axe.run(document, {only}).then(found => found.violations.map(each => each.id + ': ' + each.nodes"
            ".slice(0, 3).map(node => node.target.join(' ') + ' ' + node.failureSummary).join('; ')))"
        )
        return [str(each) for each in found]

    async def _wait_until_loaded(self) -> None:
        async with asyncio.timeout(STEP_SECONDS):
            await self._loaded.wait()

    async def _read(self) -> None:
        async for message in self._socket:
            event = json.loads(message)
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            else:
                self._hear(event["method"], event["params"])

    def _hear(self, method: str, event: Mapping[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.hosts.add(urlsplit(event["request"]["url"]).netloc)
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning"):
            self.errors.append(json.dumps(event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.errors.append(event["entry"]["text"])


async def check(tab: Tab, url: str) -> None:
    """All rules in light; in dark those that colours decide, or all of them at full scale. A phone shows all of it."""
    await tab.open(url)
    for scheme in ("light", "dark"):
        # Without motion, or a colour on its way from one scheme to the other is found.
        preferred = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in preferred.items()]
        await tab.command("Emulation.setEmulatedMedia", features=features)
        await tab.evaluate("for (const each of document.querySelectorAll('details')) each.open = true; true")
        rules = ("color-contrast",) if scheme == "dark" and not IS_FULL else ()
        assert await tab.violations(rules=rules) == [], (url, scheme)
    await tab.command("Emulation.setDeviceMetricsOverride", width=PHONE, height=800, deviceScaleFactor=1, mobile=True)
    assert await tab.evaluate("document.documentElement.scrollWidth") == PHONE, url
    await tab.command("Emulation.clearDeviceMetricsOverride")
    charts = "[...document.querySelectorAll('svg[role=img]')]"
    assert await tab.evaluate(f"{charts}.every(each => each.closest('figure').querySelector('table'))"), url
    await tab.command("Emulation.setEmulatedMedia", features=[])


@asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Tab]:
    """A browser with one tab."""
    process = await asyncio.create_subprocess_exec(
        *(str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}", "about:blank"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with websockets.connect(await _address(profile), max_size=None, proxy=None) as socket:
            tab = Tab(socket)
            await tab.start()
            yield tab
            await tab.close()
    finally:
        process.terminate()
        await process.wait()


async def _address(profile: Path) -> str:
    """Where the tab is driven, once the browser has written down its port."""
    written = profile / "DevToolsActivePort"
    async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        while not (written.exists() and len(written.read_text().split()) == 2):  # noqa: ASYNC110 - nor a file
            await asyncio.sleep(0.02)
        port = written.read_text().split()[0]
        while True:
            tabs = (await client.get(f"http://127.0.0.1:{port}/json")).json()
            for each in tabs:
                if each["type"] == "page":
                    return str(each["webSocketDebuggerUrl"])
            await asyncio.sleep(0.02)
