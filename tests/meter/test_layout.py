"""Python and Lua agree on the bytes in Redis, on replies and on the order of arguments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.meter import admissions, layout
from gateway.meter import scripts as registry
from gateway.meter.client.client import RedisClient
from gateway.meter.layout import LUA, AccountState, HoldLine, KeyBudget, lua_prelude
from gateway.meter.replies import Verdict
from gateway.meter.scripts import ADMIT, FOLDER, SETTLE, Script
from policies.access.limits import STEP_MS
from policies.usage.records import CURRENT, PREFIX_COLUMNS, field_of

ALL_SCRIPTS = {name: script for name, script in vars(registry).items() if isinstance(script, Script)}
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
INT64 = st.integers(-(2**53), 2**53)  # Lua counts in doubles
UINT32 = st.integers(0, 2**32 - 1)


@pytest.fixture
async def lua(redis_client: RedisClient) -> Any:
    async def run(expression: str, *arguments: bytes | int) -> Any:
        source = f"return {expression}"
        return await redis_client.call((b"EVAL", lua_prelude(source) + source, 0, *arguments))

    return run


@SETTINGS
@given(INT64, INT64, st.integers(-(2**31), 2**31 - 1), st.lists(UINT32, min_size=12, max_size=12))
async def test_state_that_lua_packs_is_what_python_unpacks(
    lua: Any, clock_ms: int, balance: int, in_flight: int, counts: list[int]
) -> None:
    packed = await lua("struct.pack(STATE, unpack(ARGV))", clock_ms, balance, in_flight, *counts)
    state = AccountState.unpack(packed)
    assert (state.clock_ms, state.balance, state.in_flight) == (clock_ms, balance, in_flight)
    assert [number for window in state.windows for number in window] == counts
    assert len(packed) == int(LUA["STATE_BYTES"])
    assert state.packed() == packed
    head = await lua(
        "struct.pack(CLOCK_AND_BALANCE, ARGV[1], ARGV[2]) .. string.sub(ARGV[3], AFTER_BALANCE)",
        clock_ms,
        balance,
        packed,
    )
    assert head == packed
    head = await lua(
        "struct.pack(CLOCK_BALANCE_IN_FLIGHT, ARGV[1], ARGV[2], ARGV[3]) .. string.sub(ARGV[4], AFTER_IN_FLIGHT)",
        *(clock_ms, balance, in_flight, packed),
    )
    assert head == packed


@SETTINGS
@given(INT64, INT64, UINT32)
async def test_key_budget_that_lua_packs_is_what_python_unpacks(lua: Any, since: int, spent: int, keys: int) -> None:
    packed = await lua("struct.pack(BUDGET, unpack(ARGV))", since, spent, keys)
    assert KeyBudget.unpack(packed) == (since, spent, keys)
    assert (
        await lua(
            "struct.pack(BUDGET_START, ARGV[1], ARGV[2]) .. string.sub(ARGV[3], AFTER_SPENT)", since, spent, packed
        )
        == packed
    )


async def test_constants_say_in_lua_what_they_say_in_python(lua: Any) -> None:
    assert await lua("{STEPS, STEP_MS[1], STEP_MS[2], STEP_MS[3]}") == [60, *STEP_MS]
    assert await lua("HAS_BUDGETS") == layout.HAS_BUDGETS
    assert await lua("PREFIX_LENGTHS[1]") == len(PREFIX_COLUMNS)
    assert await lua("{STATE_FIELD, KEY_PREFIX, RECORD_FIELD, NULL}") == [
        b"s",
        b"k:",
        field_of(CURRENT).encode(),
        b"\\N",
    ]


@given(st.integers(0, 2**53), st.text(st.characters(exclude_characters="\t", codec="utf-8")), st.text())
def test_hold_line_reads_back_as_it_was_packed(amount: int, owner: str, prefix: str) -> None:
    hold = HoldLine(amount, owner, prefix)
    assert HoldLine.unpack(hold.packed().encode()) == hold


def test_prelude_has_what_a_script_names_and_nothing_else() -> None:
    source = "-- STEPS\nreturn {ADMITTED, STATE}"
    assert lua_prelude(source, Verdict) == f"local STATE = {LUA['STATE']}\nlocal ADMITTED = 1\n"


def test_pieces_of_an_admission_are_in_the_order_that_the_script_declares() -> None:
    assert ADMIT.arguments == admissions.ARGUMENTS
    assert ADMIT.keys == ("account", "catalogue", "holds", "claim")
    assert (SETTLE.keys[:3], SETTLE.arguments[:3]) == (
        ("account", "holds", "journal"),
        ("request_id", "charge", "suffix"),
    )


@pytest.mark.parametrize("name", ALL_SCRIPTS)
def test_script_counts_no_arguments_and_repeats_no_layout(name: str) -> None:
    """KEYS and ARGV are unpacked once; formats and names of fields come from the layout."""
    script = ALL_SCRIPTS[name]
    code = re.sub(r"--.*", "", script.source)
    assert script.keys
    written = re.sub(r"--.*", "", (FOLDER / f"{name.lower()}.lua").read_text())
    assert "ARGV[" not in written
    assert "KEYS[1]" not in written
    assert set(re.findall(r"'(<[^']*)'", code)) <= {value.strip("'") for value in LUA.values()}
    known = set(re.findall(r"\b[A-Z][A-Z_]{2,}\b", re.sub(r"'[^']*'", "", code)))
    defined = set(re.findall(r"local ([A-Z][A-Z_]+) =", code))
    assert known - {"KEYS", "ARGV"} <= defined, "a constant that nothing defines"


def test_every_file_is_a_script_or_a_library_of_one() -> None:
    files = {path.stem for path in Path(FOLDER).glob("*.lua")}
    assert files == {name.lower() for name in ALL_SCRIPTS}


def test_arguments_are_given_by_name() -> None:
    script = Script("local one, two,\n  three = unpack(ARGV)\nreturn one")
    assert script.arguments == ("one", "two", "three")
    assert script.ordered(two=2, one=1) == [1, 2]
    with pytest.raises(KeyError):
        script.ordered(one=1, three=3)
    with pytest.raises(KeyError):
        script.ordered(one=1, four=4)
