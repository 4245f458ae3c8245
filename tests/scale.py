"""How much of a long proof is run: a short version in the suite, all of it by `make fuzz` and `make chaos`.

Chance is drawn from one seed, which a failing test prints and `SEED=` replays.
"""

from __future__ import annotations

import os
import random

IS_FULL = os.environ.get("GATEWAY_TEST_SCALE") == "full"
SEED = int(os.environ.get("GATEWAY_TEST_SEED") or random.SystemRandom().getrandbits(32))


def times(*, suite: int, full: int) -> int:
    """How often something is done."""
    return full if IS_FULL else suite


def chance(name: str) -> random.Random:
    """The same sequence for the same seed and name."""
    print(f"chance of {name!r}: SEED={SEED}")  # noqa: T201 - pytest shows it where the test fails
    return random.Random(f"{SEED} {name}")  # noqa: S311 - to be replayed, not to be kept
