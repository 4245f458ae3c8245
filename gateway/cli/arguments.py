"""Arguments as commands take them, held to what the APIs accept: each record can be read and changed there too."""

from __future__ import annotations

from datetime import MAXYEAR, UTC, datetime
from pathlib import Path

import typer

from gateway.clock import now
from policies.wording import MAX_LINE_CHARACTERS, is_printable

MAX_SECONDS = 2**31 - 1


def line(text: str) -> str:
    """One line of text, such as a name or a reason, without spaces around it."""
    stripped = text.strip()
    if not 0 < len(stripped) <= MAX_LINE_CHARACTERS:
        raise typer.BadParameter(f"must have 1 to {MAX_LINE_CHARACTERS} characters, has {len(stripped)}")
    if not is_printable(stripped):
        raise typer.BadParameter("must be text without control characters or line breaks")
    return stripped


def moment(text: str) -> datetime:
    """A date or a timestamp (ISO 8601), in UTC without an offset."""
    try:
        parsed = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a date such as 2026-01-31 nor a timestamp such as 2026-01-31T12:00:00Z"
        ) from None
    try:
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is out of the calendar") from None


def future_moment(text: str) -> datetime:
    found = moment(text)
    if found <= now():
        raise typer.BadParameter(f"{text!r} is not in the future")
    if found.year == MAXYEAR:  # the end of time is what PostgreSQL calls infinity
        raise typer.BadParameter(f"{text!r} is out of the calendar")
    return found


def replaceable_file(path: Path | None) -> Path | None:
    """What a complete file may take the name of: nothing, or a file. A link stays, and what it leads to is replaced.

    A file that took the name of /dev/null would break the machine.
    """
    if path is None:
        return None
    if not path.name or (path.exists() and not path.is_file()):
        raise typer.BadParameter(f"{str(path)!r} is not the name of a file, which could be replaced")
    return path.resolve() if path.is_symlink() else path


def is_text(argument: str) -> bool:
    """Whether the bytes of the argument are UTF-8, which all that the database has is."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True
