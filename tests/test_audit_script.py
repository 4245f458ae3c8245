"""The audit of the locks fails by a known vulnerability, and by nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLEAN = {"dependencies": [{"name": "pydantic", "version": "2.0", "vulns": []}], "fixes": []}
FLAW = {"id": "PYSEC-2026-1", "fix_versions": ["2.1"], "aliases": [], "description": "bad"}
SKIPPED = {"name": "ours", "skip_reason": "Dependency not found on PyPI and could not be audited: ours (1)"}
UNKNOWN = {"dependencies": [SKIPPED], "fixes": []}
PARTLY = {"dependencies": [SKIPPED, *CLEAN["dependencies"]], "fixes": []}
FLAWED = {"dependencies": [{"name": "pydantic", "version": "2.0", "vulns": [FLAW]}]}


def audit(folder: Path, program: str | None) -> subprocess.CompletedProcess[str]:
    """Runs the script with this as pip-audit, or without one."""
    if program is not None:
        fake = folder / "pip-audit"
        fake.write_text(f"#!/bin/sh\n{program}\n")
        fake.chmod(0o755)
    plain = "/usr/bin:/bin"
    environment = {"PATH": f"{folder}:{plain}", "HOME": os.environ.get("HOME", "/"), "AUDIT_SECONDS": "5"}
    command = [str(ROOT / "scripts/audit")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("program", "status", "says"),
    [
        (None, 0, "audit skipped: pip-audit is not installed"),
        ("echo 'ConnectionError: unreachable' >&2; exit 1", 0, "audit skipped: no advisory database answers"),
        ("echo '<html>proxy</html>'; exit 1", 0, "audit skipped: no advisory database answers"),
        (f"echo '{json.dumps(CLEAN)}'", 0, "requirements.lock: 1 packages, 0 known vulnerabilities"),
        (f"echo '{json.dumps(UNKNOWN)}'", 0, "audit skipped: no advisory database answers"),
        (f"echo '{json.dumps(PARTLY)}'", 0, "requirements.lock: no advisory database knows ours"),
        (f"echo '{json.dumps(FLAWED)}'; exit 1", 1, "pydantic 2.0: PYSEC-2026-1, fixed in 2.1"),
    ],
)
def test_audit_fails_by_a_known_vulnerability_alone(
    tmp_path: Path, program: str | None, status: int, says: str
) -> None:
    done = audit(tmp_path, program)
    assert (done.returncode, done.stderr) == (status, "")
    assert says in done.stdout


def test_audit_asks_about_the_locks_of_a_release(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    audit(tmp_path, f'echo "$@" >> {asked}')
    assert [line.split()[1] for line in asked.read_text().splitlines()] == [
        "requirements.lock",
        "requirements-server.lock",
        "requirements-extras.lock",
    ]
