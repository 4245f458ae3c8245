"""A benchmark says why the gateway did not start."""

from pathlib import Path

import pytest

from benchmarks.peers import ours

_PYTHON = """#!/bin/sh
case "$*" in
  *" serve "*) echo "no such upstream" >&2; exit 3;;
  *) echo '{"key": "gw_live_x"}';;
esac
"""


def test_gateway_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(_PYTHON)
    python.chmod(0o700)

    with (
        pytest.raises(ours.NotStartedError, match="ended with 3 before it was ready:\nno such upstream"),
        ours.serving(tmp_path, 1, python=str(python)),
    ):
        pass
