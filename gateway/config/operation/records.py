"""The sections `usage` and `idempotency` of gateway.yaml: what is kept of calls, how long, and where."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gateway.config.quantities import Kind, Positive, Size, about
from policies import idempotency


def _folder(value: object) -> Path | None:
    """Absolute, since child processes may work elsewhere."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"must be the path of a folder, got {value!r}")
    if "://" in value:
        raise ValueError("must be the path of a folder; mount a bucket, or copy the files to it")
    return Path(value).absolute()


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    stored_for: Annotated[
        Literal["paid_plans", "all_plans", "nobody"],
        Kind("`paid_plans`, `all_plans` or `nobody`"),
        about("Whose responses are stored for 24 hours, so that a repeated `Idempotency-Key` gets them again."),
    ] = "all_plans"
    # The script that counts them packs 32 bits.
    max_bytes_per_account: Annotated[
        Size, Field(lt=2**32), about("Bytes of responses that an account may store in a day (UTC).")
    ] = idempotency.MAX_STORED_BYTES_PER_ACCOUNT
    max_bytes: Annotated[Size, about("Bytes of responses that all accounts may store in a day (UTC) in Redis.")] = (
        idempotency.MAX_STORED_BYTES
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    keep_months: Annotated[
        Positive | None, about("Whole months of usage that are kept besides the current one; null keeps all.")
    ] = None
    archive: Annotated[
        Path | None,
        BeforeValidator(_folder),
        Kind("path of a folder"),
        about("Folder to which the worker exports a month before it drops it; null exports none."),
    ] = None
    archive_format: Annotated[
        Literal["csv", "parquet"],
        Kind("`csv` or `parquet`"),
        about("Format of the archives: gzip files of CSV, or Parquet, which needs the extra `parquet`."),
    ] = "csv"
    sink: Annotated[
        Path | None,
        BeforeValidator(_folder),
        Kind("path of a folder"),
        about("Folder that the worker keeps a copy of all usage in, as Parquet by hour; needs the extra `parquet`."),
    ] = None

    def __post_init__(self) -> None:
        if self.archive is not None and self.keep_months is None:
            raise ValueError("archive needs keep_months: only months that are dropped are archived")
        if self.archive_format != "csv" and self.archive is None:
            raise ValueError("archive_format needs archive: without it nothing is archived")

    def setting_without_extra(self) -> str | None:
        """The setting that needs the extra `parquet` where that is not installed."""
        setting = "sink" if self.sink is not None else "archive_format" if self.archive_format != "csv" else None
        return setting if find_spec("pyarrow") is None else None
