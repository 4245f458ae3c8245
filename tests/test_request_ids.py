"""An id of the gateway is a UUIDv7 of RFC 9562, and sorts by the time it was made."""

from __future__ import annotations

import time
from uuid import RFC_4122, UUID

from gateway.request_ids import uuid7


def test_id_is_of_version_7_and_of_this_moment() -> None:
    before = time.time_ns() // 1_000_000
    ids = [uuid7() for _ in range(200)]
    after = time.time_ns() // 1_000_000
    for each in map(UUID, ids):
        assert (each.version, each.variant) == (7, RFC_4122)
        assert before <= each.int >> 80 <= after
    assert [str(UUID(each)) for each in ids] == ids
    assert len(set(ids)) == 200


def test_ids_sort_by_time() -> None:
    first = uuid7()
    while time.time_ns() // 1_000_000 <= UUID(first).int >> 80:
        pass
    assert uuid7() > first
