"""How much of a long proof runs, and the seed of what it draws.

`make test` runs short versions from one fixed seed, so it draws the same on every machine. `make fuzz` and `make chaos`
run all of it from a random seed, which they print.
"""

from __future__ import annotations

import os
import random

IS_FULL = os.environ.get("GATEWAY_TEST_SCALE") == "full"
FIXED_SEED = 1
measured: list[str] = []  # what a run prints at its end
SEED = int(os.environ.get("GATEWAY_TEST_SEED") or FIXED_SEED)


def scaled(*, suite: int, full: int) -> int:
    return full if IS_FULL else suite


def seeded_random(name: str) -> random.Random:
    """The same sequence for the same seed and name."""
    print(f"random {name!r}: SEED={SEED}")  # noqa: T201 - pytest shows it where the test fails
    return random.Random(f"{SEED} {name}")  # noqa: S311 - to be replayed, not to be secret
