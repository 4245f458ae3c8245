"""Every command is there under its name, and one whose module cannot be imported says so."""

from __future__ import annotations

import importlib
import sys

import pytest
from typer.core import TyperCommand, TyperGroup

from gateway.cli.main import _GROUPS, _MODULES, _Commands

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", [*_MODULES, *_GROUPS])
def test_command_is_imported_under_its_name(name: str) -> None:
    command = _Commands()[name]
    assert isinstance(command, TyperGroup if name in _GROUPS else TyperCommand)
    assert command.name == name


def test_unknown_command_has_no_module() -> None:
    commands = _Commands()
    assert commands.get("serv") is None
    assert sorted(commands) == sorted({*_MODULES, *_GROUPS})
    assert len(commands) == len(list(commands))


@pytest.mark.parametrize("name", ["serve", "usage"])
def test_module_that_cannot_be_imported_is_not_an_unknown_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise KeyError("HOME")

    monkeypatch.setattr(sys.modules["gateway.cli.main"], "import_module", broken)
    with pytest.raises(ImportError, match=f"the command {name}"):
        _Commands().get(name)


def test_interrupt_while_a_command_is_imported_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["gateway.cli.main"], "run", interrupted)
    command_line = importlib.reload(sys.modules["gateway.cli"])  # importing the module `main` hid the function
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    assert stopped.value.code == 130
