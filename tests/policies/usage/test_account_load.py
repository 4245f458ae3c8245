"""What PostgreSQL does not have of a journal is exactly what its writer would still add."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from policies.usage.account_load import JournaledCharge, later, pending_charges

# What a call may come to in the journal: settled; swept; swept and corrected; any of these told again.
LIVES = st.lists(
    st.tuples(st.sampled_from(["settled", "swept", "corrected"]), st.integers(1, 9), st.integers(0, 2)),
    max_size=6,
)


def _journal(lives: list[tuple[str, int, int]]) -> list[tuple[UUID, int, bool]]:
    """Request, credits, and whether the entry corrects; in order."""
    entries = []
    for number, (life, credits, repetitions) in enumerate(lives):
        request = UUID(int=number)
        if life == "settled":
            entries.append((request, credits, False))
        else:
            entries.append((request, 0, False))
        if life == "corrected":
            entries.append((request, credits, True))
        if life != "swept":
            entries += [(request, credits, True)] * repetitions
    return entries


class _Books:
    """A usage writer by its rules, one entry after another."""

    def __init__(self) -> None:
        self.rows: dict[UUID, int] = {}
        self.charged = 0

    def take(self, request: UUID, credits: int, corrects: bool) -> None:
        if request in self.rows and (not corrects or self.rows[request]):
            return
        self.rows[request] = credits
        self.charged += credits


@given(LIVES, st.data())
def test_pending_charges_are_what_the_writer_would_still_charge(
    lives: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """The writer reads a journal from its start. It may have taken a part before, of which PostgreSQL has lost some."""
    journal = _journal(lives)
    taken = data.draw(st.integers(0, len(journal)))
    lost = data.draw(st.sets(st.sampled_from([entry[0] for entry in journal]))) if journal else set()
    books = _Books()
    for entry in journal[:taken]:
        if entry[0] not in lost:
            books.take(*entry)
    written, before = {request: credits == 0 for request, credits in books.rows.items()}, books.charged
    entries = [
        JournaledCharge(f"{place}-0", request, place, credits, corrects)
        for place, (request, credits, corrects) in enumerate(journal, start=1)
    ]
    found = pending_charges(entries, rows=written)
    for entry in journal:
        books.take(*entry)
    assert found.credits == books.charged - before
    assert len(found.moments) == len(books.rows) - len(written)


def test_entry_ids_are_ordered_by_their_numbers() -> None:
    assert later("9-0", "10-0") == "10-0"
    assert later("10-9", "10-10") == "10-10"
    assert later("0-0", "0-0") == "0-0"
