"""The soft limit of open files: service managers set it to 1024, which a few hundred idle clients use up."""

from __future__ import annotations

import subprocess
import sys


def test_soft_limit_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512));"
        "from gateway.runtime.process import raise_descriptor_limit as raised;"
        "print(raised(), resource.getrlimit(resource.RLIMIT_NOFILE), raised())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "512 (512, 512) 512"
