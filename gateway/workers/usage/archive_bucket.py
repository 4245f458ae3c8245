"""A bucket of S3, or of a server that speaks its protocol, as the place of archives. Needs the extra `s3`.

Credentials, region and endpoint are those that boto3 finds: `AWS_*` variables, the files of `~/.aws`, the roles of
containers and machines. What is uploaded is read back, since not every such server has checksums. No object is ever
replaced or deleted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from gateway.config.operation.records import Bucket
from gateway.workers.usage.archive_folder import ArchiveFailed, check_folder, measure

PART_BYTES = 32 << 20  # an upload holds two in memory; S3 takes 10,000

_CHUNK_BYTES = 1 << 20
_PROBE = ".probe"
_CONNECT_TIMEOUT_SECONDS = 10


class ArchiveBucket:
    """Objects below the prefix of a bucket, uploaded from a folder of drafts. Every method raises ArchiveFailed."""

    def __init__(self, bucket: Bucket, drafts: Path) -> None:
        self.drafts = drafts
        self._bucket = bucket

    def check(self) -> None:
        """Adds an empty object once, and asks for what it needs: s3:PutObject, s3:GetObject and s3:ListBucket."""
        check_folder(self.drafts)
        with self._failures():
            # Without this right, S3 says of a missing object that it is denied.
            self._s3.list_objects_v2(Bucket=self._bucket.name, Prefix=self._bucket.key(_PROBE), MaxKeys=1)
            self._create(_PROBE, b"")
        if self.read(_PROBE) is None:
            raise ArchiveFailed(f"{self._bucket} does not give back what was written")

    def read(self, name: str) -> bytes | None:
        with self._failures():
            body = self._open(name)
            return None if body is None else bytes(body.read())

    def measure(self, name: str) -> tuple[int, str] | None:
        with self._failures():
            if (body := self._open(name)) is None:
                return None
            size, digest = 0, hashlib.sha256()
            for chunk in body.iter_chunks(_CHUNK_BYTES):
                size += len(chunk)
                digest.update(chunk)
            return size, digest.hexdigest()

    def add(self, draft: Path, name: str) -> bool:
        """False if an object with other content is there, which is never replaced."""
        with self._failures():
            is_created = self._upload(draft, name)
        if self.measure(name) != measure(draft):
            if is_created:
                raise ArchiveFailed(f"{self._bucket} does not give back {name} as it was written")
            return False
        return True

    def _upload(self, draft: Path, name: str) -> bool:
        """False if there is an object of this name."""
        with draft.open("rb") as raw:
            if draft.stat().st_size <= PART_BYTES:
                return self._create(name, raw.read())
            return self._upload_parts(iter(partial(raw.read, PART_BYTES), b""), name)

    def _create(self, name: str, body: bytes) -> bool:
        """False if there is an object of this name."""
        try:
            self._s3.put_object(**self._at(name), Body=body, IfNoneMatch="*")
        except ClientError as error:
            if _code(error) != "PreconditionFailed":
                raise
            return False
        return True

    def _upload_parts(self, parts: Iterable[bytes], name: str) -> bool:
        """As `_create`. Until the upload is complete there is no object."""
        upload = {**self._at(name), "UploadId": self._s3.create_multipart_upload(**self._at(name))["UploadId"]}
        tags = []
        try:
            for number, part in enumerate(parts, 1):
                uploaded = self._s3.upload_part(**upload, PartNumber=number, Body=part)
                tags.append({"PartNumber": number, "ETag": uploaded["ETag"]})
            self._s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": tags}, IfNoneMatch="*")
        except (BotoCoreError, ClientError) as error:
            with suppress(
                BotoCoreError, ClientError
            ):  # the server may be away; its rule for unfinished uploads remains
                self._s3.abort_multipart_upload(**upload)
            if _code(error) != "PreconditionFailed":
                raise
            return False
        return True

    def _open(self, name: str) -> Any:
        """The body of the object; None where there is none."""
        try:
            return self._s3.get_object(**self._at(name))["Body"]
        except ClientError as error:
            if _code(error) != "NoSuchKey":
                raise
            return None

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket.name, "Key": self._bucket.key(name)}

    @cached_property
    def _s3(self) -> Any:
        return boto3.session.Session().client("s3", config=Config(connect_timeout=_CONNECT_TIMEOUT_SECONDS))

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: an endpoint that is no URL
            raise ArchiveFailed(f"{self._bucket}: {error}") from error


def _code(error: Exception) -> str | None:
    return error.response["Error"]["Code"] if isinstance(error, ClientError) else None
