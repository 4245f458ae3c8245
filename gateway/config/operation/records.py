"""The sections `usage` and `idempotency` of gateway.yaml: what is kept of calls, how long, and where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gateway.config.quantities import Kind, Positive, Size, about
from policies import idempotency

# The rules of S3 for names, and what other servers of its protocol and old buckets allow besides.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", re.ASCII)
_PREFIX = re.compile(r"(/[A-Za-z0-9._=!'()*-]+)*/?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of S3. `prefix` is that of its keys, without a slash at either end, or empty."""

    name: str
    prefix: str

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def __str__(self) -> str:
        return f"s3://{self.name}/{self.prefix}".rstrip("/")


def _folder(value: object) -> Path | None:
    """Absolute, since child processes may work elsewhere."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"must be the path of a folder, got {value!r}")
    if "://" in value:
        raise ValueError("must be the path of a folder; mount a bucket, or copy the files to it")
    return Path(value).absolute()


def _folder_or_bucket(value: object) -> Path | Bucket | None:
    if not isinstance(value, str) or "://" not in value:
        return _folder(value)
    scheme, _, place = value.partition("://")
    name, slash, prefix = place.partition("/")
    if scheme != "s3":
        raise ValueError("must be the path of a folder, or s3://bucket/prefix")
    if not name:
        raise ValueError("names no bucket; it must be s3://bucket/prefix")
    if not _BUCKET.fullmatch(name) or not _PREFIX.fullmatch(slash + prefix):
        raise ValueError(
            "must be s3://bucket/prefix, of letters, digits and dashes; "
            "credentials, region and endpoint are taken from AWS_* variables"
        )
    return Bucket(name, prefix.rstrip("/"))


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
        Path | Bucket | None,
        BeforeValidator(_folder_or_bucket),
        Kind("path of a folder, or `s3://bucket/prefix`"),
        about(
            "Folder, or bucket of S3 (needs the extra `s3`), to which the worker exports a month before it drops it; "
            "null exports none."
        ),
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

    def missing_extras(self) -> Iterator[tuple[str, str]]:
        """Settings that need an extra which is not installed, each with that."""
        if isinstance(self.archive, Bucket) and find_spec("boto3") is None:
            yield "archive", "s3"
        setting = "sink" if self.sink is not None else "archive_format" if self.archive_format != "csv" else None
        if setting is not None and find_spec("pyarrow") is None:
            yield setting, "parquet"
