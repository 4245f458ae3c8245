"""Browsers that are signed in to the portal and the console of a gateway, and people who click in them."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import unescape
from multiprocessing.connection import Connection
from random import Random
from time import perf_counter
from typing import Any

import httpx

PATIENCE_SECONDS = 60.0
_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')
READING_SECONDS = 7.0  # the mean of TPC-W's think time
_LOWEST = 19
_FORK = multiprocessing.get_context("fork")


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
    """One person for each browser, who opens a page, reads it for a while, and opens the next.

    They are in a process of their own, at the lowest priority: elsewhere, browsers do not run where the gateway does.
    `seconds` is how long each page took.
    """

    def __init__(
        self, browsers: Sequence[tuple[httpx.Client, Sequence[str]]], *, reading_seconds: float = READING_SECONDS
    ) -> None:
        self.seconds: list[float] = []
        self._browsers = browsers
        self._reading_seconds = reading_seconds

    @contextmanager
    def clicking(self) -> Iterator[None]:
        here, there = _FORK.Pipe()
        process = _FORK.Process(target=self._click_until_told, args=(there,))
        process.start()
        try:
            yield
        finally:
            here.send(None)
            self.seconds += here.recv() if here.poll(PATIENCE_SECONDS) else ()
            process.join(PATIENCE_SECONDS)

    def _click_until_told(self, line: Connection) -> None:
        os.nice(_LOWEST)
        is_over, seconds = threading.Event(), list[float]()
        threads = [
            threading.Thread(target=self._click, args=(number, is_over, seconds))
            for number in range(len(self._browsers))
        ]
        for thread in threads:
            thread.start()
        line.recv()
        is_over.set()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        line.send(seconds)

    def _click(self, number: int, is_over: threading.Event, seconds: list[float]) -> None:
        browser, paths = self._browsers[number]
        chance = Random(number)  # noqa: S311 - the same clicks every time
        while not is_over.wait(chance.expovariate(1 / self._reading_seconds)):
            began = perf_counter()
            browser.get(chance.choice(paths)).raise_for_status()
            seconds.append(perf_counter() - began)
