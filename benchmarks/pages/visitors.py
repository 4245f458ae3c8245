"""Browsers that are signed in to the portal and the console of a gateway, and people who click in them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import unescape
from random import Random
from time import perf_counter
from typing import Any

import httpx

PATIENCE_SECONDS = 60.0
_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')
_READING_SECONDS = 1.0  # the mean


def portal_of(printed: Mapping[str, Any], user_id: str) -> httpx.Client:
    """By a session that the admin API hands over."""
    headers = {"authorization": f"Bearer {printed['admin_token']}"}
    with httpx.Client(base_url=f"{printed['admin_url']}/admin/v1", headers=headers, timeout=PATIENCE_SECONDS) as admin:
        link = admin.post("/portal-sessions", json={"user_id": user_id}).raise_for_status().json()["url"]
    browser = httpx.Client(base_url=printed["public_url"], timeout=PATIENCE_SECONDS)
    entered = browser.get("/portal/enter?" + link.partition("?")[2])
    if entered.status_code != 303:
        raise SystemExit(f"the link does not sign in: {entered.status_code} {entered.text[-300:]}")
    return browser


def console_of(printed: Mapping[str, Any]) -> httpx.Client:
    """By the admin token."""
    browser = httpx.Client(base_url=printed["admin_url"], timeout=PATIENCE_SECONDS)
    found = _TOKEN.search(browser.get("/console/sign-in").text)
    token = "" if found is None else unescape(found[1])
    answer = browser.post("/console/sign-in", data={"form_token": token, "token": printed["admin_token"]})
    if answer.status_code != 303:
        raise SystemExit(f"the token does not sign in: {answer.status_code} {answer.text[-300:]}")
    return browser


class People:
    """One person for each browser, who opens a page, reads it for a second or so, and opens the next.

    `seconds` is how long each page took.
    """

    def __init__(self, browsers: Sequence[tuple[httpx.Client, Sequence[str]]]) -> None:
        self.seconds: list[float] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._click, args=(number, *browser)) for number, browser in enumerate(browsers)
        ]

    @contextmanager
    def clicking(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join(PATIENCE_SECONDS)

    def _click(self, number: int, browser: httpx.Client, paths: Sequence[str]) -> None:
        chance = Random(number)  # noqa: S311 - the same clicks every time
        while not self._is_over.wait(chance.expovariate(1 / _READING_SECONDS)):
            began = perf_counter()
            browser.get(chance.choice(paths)).raise_for_status()
            self.seconds.append(perf_counter() - began)
