"""Commands as a user runs them, each a process of its own; all are forks of one that has imported the product once.

Importing takes two seconds, and the commands of this folder are many. `python -m gateway` is for the tests of `serve`.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_group

from gateway.cli import main
from gateway.cli.main import app

REPOSITORY = Path(__file__).parents[2]
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
PATIENCE_SECONDS = 60.0

list(get_group(app).commands.values())  # each command imports its module, which forks have then
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["pytest", __name__])  # a fork imports what started its parent: pytest


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    def value(self) -> dict[str, Any]:
        """The one line of JSON of a command that succeeded."""
        (line,) = self.values()
        return line

    def values(self) -> list[dict[str, Any]]:
        assert (self.code, self.err) == (0, ""), self
        return [json.loads(line) for line in self.out.splitlines()]

    def complaint(self) -> str:
        """The one line of a command that could not do its work."""
        (line,) = self.err.splitlines()
        assert (self.code, self.out) == (1, ""), self
        return line


async def run(*arguments: str, environ: Mapping[str, str] | None = None, out: Path | None = None) -> Answer:
    """`out` is a file to write to instead of the answer."""
    answer = await asyncio.to_thread(_run, arguments, ENVIRON | dict(environ or {}), out)
    assert "Traceback" not in answer.err, answer.err
    return answer


def _run(arguments: Sequence[str], environ: Mapping[str, str], other_out: Path | None) -> Answer:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        process = _forks.Process(target=_command, args=(arguments, environ, other_out or out, err))
        process.start()
        process.join(PATIENCE_SECONDS)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(arguments)
        return Answer(process.exitcode, out.read_text("utf-8"), err.read_text("utf-8"))


def _command(arguments: Sequence[str], environ: Mapping[str, str], out: Path, err: Path) -> None:
    os.chdir(REPOSITORY)
    os.environ.clear()
    os.environ.update(environ)
    for descriptor, (path, how) in enumerate(((Path(os.devnull), os.O_RDONLY), (out, os.O_WRONLY), (err, os.O_WRONLY))):
        opened = os.open(path, how | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["gateway", *arguments]
    main()
