"""Where archives are kept: what every such place does, and a folder as one. `archive_bucket` is the other."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol


class ArchiveFailed(Exception):  # noqa: N818 - named for the condition
    """The archive could not be written, or its place does not give back what was written."""


class ArchivePlace(Protocol):
    """Files by name. Every method blocks, and raises OSError or ArchiveFailed."""

    drafts: Path
    """The folder in which files are made before they are added."""

    def check(self) -> None:
        """Finds whether files can be written and read. Raises ArchiveFailed."""

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where there is none of this name."""

    def measure(self, name: str) -> tuple[int, str] | None:
        """Size and SHA-256 of the file as it is read back; None where there is none of this name."""

    def add(self, draft: Path, name: str) -> bool:
        """Makes the flushed draft appear under the name, as a whole; it may take the draft away.

        False if another file has the name, and is not to be replaced.
        """


class ArchiveFolder:
    """A folder, on the disk of the drafts. A file that is added replaces one of its name."""

    def __init__(self, folder: Path) -> None:
        self.drafts = folder

    def check(self) -> None:
        check_folder(self.drafts)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.drafts / name).read_bytes()
        except FileNotFoundError:
            return None

    def measure(self, name: str) -> tuple[int, str] | None:
        try:
            return measure(self.drafts / name)
        except FileNotFoundError:
            return None

    def add(self, draft: Path, name: str) -> bool:
        draft.replace(self.drafts / name)
        descriptor = os.open(self.drafts, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the name, so that it outlasts a loss of power as the dropped month does
        finally:
            os.close(descriptor)
        return True


def check_folder(folder: Path) -> None:
    """Creates the folder if it is missing. Raises ArchiveFailed if files cannot be written there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ArchiveFailed(f"{folder} cannot be written: {error.strerror}") from error


def measure(path: Path) -> tuple[int, str]:
    """Gives size and SHA-256 of the file. Raises OSError."""
    with path.open("rb") as raw:
        return path.stat().st_size, hashlib.file_digest(raw, "sha256").hexdigest()
