"""Log lines in the form and from the level that the configuration asks for, ours and our libraries' alike."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import logging
import structlog
from gateway import logs
logs.configure(role="admin", level=logging.{level}, form="{form}")
log = structlog.get_logger()
log.info("first", reason='a "b" c\\nd', count=3)
log.warning("second")
logging.getLogger("library").warning("third %s", 1)
try:
    secret = "do not show"
    raise ValueError("wrong")
except ValueError as error:
    log.error("fourth", exc_info=error)
"""
CHANGED = """
logs.change(level=logging.INFO, form="logfmt")
log.info("fifth")
log.debug("never")
logging.getLogger("library").warning("sixth %s", 1)
"""


def lines_of(level: str, form: str) -> list[str]:
    script = SCRIPT.format(level=level, form=form)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "do not show" not in done.stderr.replace('secret = "do not show"', "")
    return done.stderr.splitlines()


def test_json_lines_are_objects_from_their_level_on() -> None:
    found = [json.loads(line) for line in lines_of("INFO", "json")]
    assert [line["event"] for line in found] == ["first", "second", "third 1", "fourth"]
    assert {line["role"] for line in found if "logger" not in line} == {"admin"}
    assert found[0]["reason"] == 'a "b" c\nd'
    assert [json.loads(line)["event"] for line in lines_of("ERROR", "json")] == ["fourth"]


def test_level_and_form_change_for_loggers_that_exist() -> None:
    script = SCRIPT.format(level="ERROR", form="json") + CHANGED
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, *after = done.stderr.splitlines()
    assert json.loads(before)["event"] == "fourth"
    assert [line.partition(" level=")[2] for line in after] == [
        "info event=fifth role=admin",
        'warning event="sixth 1" role=admin logger=library',
    ]


def test_logfmt_lines_are_one_line_each() -> None:
    found = lines_of("WARNING", "logfmt")
    assert len(found) == 3
    assert all(line.startswith("timestamp=") and " level=" in line and " event=" in line for line in found)
    assert "ValueError: wrong" in found[2]
