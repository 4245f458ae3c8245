"""`gateway price` explains a price as calls are charged, from the configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import run

CONFIG = """
credits: {shown_as: {currency: USD, per_unit: 1000}}
upstreams: {ai: {targets: [http://127.0.0.1:9000]}}
prices:
  openai:
    reader: openai
    per: 1M tokens
    models:
      gpt-5: {input: 1000, cached_input: 100, output: 8000, max_output: 1000, feature: frontier,
              above: {2000: {input: 2000}}}
      "gpt-5-mini*": {input: 500, output: 4000}
    minimum: 1
    maximum: 50
  azure: {reader: openai, per: 1M tokens, models: {gpt-5: 7}, unknown_model: 9000}
  speech: {reader: openai, per: second, hold: 5, models: {whisper: 2}}
routes:
  - {name: chat, match: {path: /chat}, upstream: ai, price: openai}
  - {name: azure, match: {path: /azure}, upstream: ai, price: azure}
  - {name: in_place, match: {path: /in-place}, upstream: ai,
     price: {credits: {input: 3, output: 4}, per: token, reader: openai}}
  - {name: speech, match: {path: /speech}, upstream: ai, price: speech}
plans:
  - {id: small, name: Small, price: 1}
  - {id: large, name: Large, price: 2, features: [frontier]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    return path


async def explained(file: Path, *arguments: str) -> dict[str, Any]:
    return (await run("price", *arguments, "--json", "--config", str(file))).value()


async def refused(file: Path, *arguments: str) -> str:
    """The words of a wrong usage, without the frame that the console draws around them."""
    answer = await run("price", *arguments, "--config", str(file))
    assert (answer.code, answer.out) == (2, "")
    return " ".join(answer.err.replace("│", " ").split())


async def test_price_is_explained_class_by_class(file: Path) -> None:
    usage = ("--input", "1500", "--cached-input", "500", "--output", "250", "--reasoning", "50")
    found = await explained(file, "gpt-5", "--list", "openai", *usage)

    assert found["classes"] == [
        {"class": "cached_input", "count": 500, "price": "100", "credits": "0.05"},
        {"class": "input", "count": 1000, "price": "1000", "credits": "1"},
        {"class": "output", "count": 250, "price": "8000", "credits": "2"},
    ]
    assert (found["credits"], found["shown_as"]) == (4, {"currency": "USD", "amount": "0.004000"})
    assert (found["per"], found["minimum"], found["maximum"]) == ("1000000 tokens", 1, 50)
    assert (found["feature"], found["plans_with_feature"]) == ("frontier", ["large"])
    assert (found["above"], found["priced_as"], found["flags"]) == (None, "gpt-5", [])


async def test_mark_that_the_input_passed_is_named(file: Path) -> None:
    at, past = [await explained(file, "gpt-5", "--list", "openai", "--input", count) for count in ("2000", "2001")]

    assert (at["above"], at["classes"][0]["price"]) == (None, "1000")
    assert (past["above"], past["classes"][0]["price"]) == (2000, "2000")


async def test_most_that_a_call_costs_is_flagged(file: Path) -> None:
    found = await explained(file, "gpt-5-mini-2025", "--output", "1000000")

    assert (found["list"], found["priced_as"]) == ("openai", "gpt-5-mini*")
    assert (found["credits"], found["flags"]) == (50, ["maximum_reached"])


@pytest.mark.parametrize(
    ("asked", "hold"),
    [
        (("--max-output", "500"), 6),  # 4 bytes a token, held at 3 a token: 2000 at 1000, and 500 at 8000
        (("--max-output", "500", "--body-bytes", "3000"), 5),
        ((), 10),  # what the model writes at most
    ],
)
async def test_hold_is_that_of_the_request(file: Path, asked: tuple[str, ...], hold: int) -> None:
    assert (await explained(file, "gpt-5", "--list", "openai", "--input", "1500", *asked))["hold"] == hold


async def test_price_by_the_second_takes_seconds(file: Path) -> None:
    found = await explained(file, "whisper", "--seconds", "2.5")

    assert found["classes"] == [{"class": "second", "count": "2.5", "price": "2", "credits": "5"}]
    assert (found["per"], found["credits"]) == ("1 second", 5)


@pytest.mark.parametrize(("listed", "name", "credits"), [("azure", "unknown_model", 9), ("in_place", "*", 3000)])
async def test_unknown_model_costs_what_a_list_says_of_any(file: Path, listed: str, name: str, credits: int) -> None:
    found = await explained(file, "other", "--list", listed, "--input", "1000")

    assert (found["list"], found["priced_as"], found["credits"]) == (listed, name, credits)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("gpt-4", "--list", "openai"), "'gpt-4' is not offered; the nearest names are gpt-5, gpt-5-mini*"),
        (("gpt-5",), "several lists have 'gpt-5': azure, openai; choose one"),
        (("other",), "several lists have 'other': azure, in_place; choose one"),
        (
            ("gpt-5", "--list", "nope"),
            "no route uses a price list 'nope'; lists in use: azure, in_place, openai, speech",
        ),
        (("whisper", "--seconds", "NaN"), "'NaN' is not a number from 0"),
        (("whisper", "--seconds", "ten"), "'ten' is not a number from 0"),
    ],
)
async def test_model_that_has_no_one_price_is_a_clear_error(file: Path, asked: tuple[str, ...], words: str) -> None:
    assert words in await refused(file, *asked)


async def test_people_get_a_table(file: Path) -> None:
    answer = await run("price", "gpt-5", "--list", "openai", "--input", "1000", "--config", str(file))
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]

    assert (answer.code, lines[:2]) == (0, ["class count price credits", "input 1000 1000 1"])
    assert {"plans with feature large", "credits 1", "shown as 0.001000 USD", "hold 10"} <= set(lines)
