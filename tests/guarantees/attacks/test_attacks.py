"""Beside each attack, the calls of a victim succeed; attackers get what is documented, and nothing of them is left."""

from __future__ import annotations

import pytest

from tests.guarantees.attacks.attackers import Attackers
from tests.guarantees.attacks.kinds import ATTACKS, Attack
from tests.guarantees.attacks.under_attack import UnderAttack
from tests.guarantees.attacks.victim import Calls

CONNECTIONS = 12
BYTES_PER_SECOND = 20_000_000
VICTIM_CALLS = 60
PAUSE_SECONDS = 0.01


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_victim_is_served_beside_an_attack_that_leaves_nothing(gateway: UnderAttack, attack: Attack) -> None:
    load = gateway.load(attack, connections=CONNECTIONS, bytes_per_second=BYTES_PER_SECOND)
    async with Attackers(load).attacking() as met:

        def is_over(calls: Calls) -> bool:
            has_attacked = met.begun >= CONNECTIONS and (attack.holds or met.answers.total() > 0)
            return has_attacked and calls.statuses.total() >= VICTIM_CALLS

        calls = await gateway.victim(attack.victim_path).call_until(is_over, pause_seconds=PAUSE_SECONDS)
    assert calls.failed == 0, calls.statuses
    assert set(met.answers) <= attack.answers, met.answers
    await gateway.come_to_rest()
