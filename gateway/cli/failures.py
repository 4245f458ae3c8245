"""Which failures a command tells in one line: whoever runs it can mend them, and a traceback would not help.

The command line imports this once one has failed; most commands know but a few of these errors.
"""

from __future__ import annotations

from errno import EDQUOT, ENOSPC

from gateway.backup.backup_file import BackupDamaged
from gateway.backup.dump import NothingToBackUp
from gateway.backup.restore import RestoreRefused
from gateway.embedded.errors import EmbeddedError
from gateway.importing.source import SourceUnusable
from gateway.ledger.accounts.peppers import WrongPepper
from gateway.ledger.db.errors import AlreadyExists, InUse, InvalidValue, NotFound
from gateway.ledger.db.pooler import UnfitPooler
from gateway.ledger.db.schema import SchemaUnfit, UnknownRevision
from gateway.ledger.db.session import DatabaseUnavailable, InvalidDatabaseUrl
from gateway.meter.client.errors import MeterUnavailable, UnsupportedServer
from gateway.runtime.serving import CoresUnusable
from gateway.runtime.sockets import AddressUnusable
from gateway.runtime.supervisor import ChildFailed

_EXPECTED = (
    AddressUnusable,
    AlreadyExists,
    BackupDamaged,
    CoresUnusable,
    ChildFailed,
    DatabaseUnavailable,
    EmbeddedError,
    InUse,
    InvalidDatabaseUrl,
    InvalidValue,
    MeterUnavailable,
    NotFound,
    NothingToBackUp,
    RestoreRefused,
    SchemaUnfit,
    SourceUnusable,
    UnfitPooler,
    UnknownRevision,
    UnsupportedServer,
    WrongPepper,
)


def is_expected(error: Exception) -> bool:
    """Whether whoever runs the command can mend it; so with a full disk, which what is printed may go to."""
    return isinstance(error, _EXPECTED) or (isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT))
