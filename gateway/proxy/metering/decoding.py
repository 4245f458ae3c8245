"""Content codings of responses, undone piece by piece in bounded memory (RFC 9110, section 8.4)."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import brotli  # type: ignore[import-untyped] # it ships no types

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 64 * 1024  # at most, of what is given at once
MAX_CODINGS = 3
READABLE = b"gzip, deflate, br, zstd"  # an Accept-Encoding of all that can be read
_ZSTD_WINDOW_LOG = 23  # RFC 9659: a window of the content coding `zstd` has at most 8 MiB


class DecodingError(ValueError):
    """The coding is unknown, or the bytes are not of it."""


class Decoder(Protocol):
    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """The pieces that a chunk adds. Raises DecodingError."""


def open_decoder(content_encoding: bytes) -> Decoder | None:
    """The decoder of a Content-Encoding, None where nothing is encoded. Raises DecodingError for what is not known."""
    if not content_encoding:
        return None
    names = [name.strip().lower() for name in content_encoding.split(b",")]
    codings = [name for name in names if name not in (b"", b"identity")]
    if len(codings) > MAX_CODINGS or not set(codings) <= _DECODERS.keys():
        raise DecodingError(content_encoding.decode("latin-1"))
    decoders = [_DECODERS[name]() for name in reversed(codings)]
    if len(decoders) < 2:
        return decoders[0] if decoders else None
    return _Chain(decoders)


class _Chain:
    """Codings applied one after the other, undone in reverse."""

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        self._first, *rest = decoders
        self._rest = rest[0] if len(rest) == 1 else _Chain(rest)

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        for piece in self._first.decode(chunk):
            yield from self._rest.decode(piece)


class _Zlib:
    """gzip of any number of members, or deflate with and without the header that RFC 9110 asks for."""

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._waiting = b""
        self._inflate: zlib._Decompress | None = None
        self._members = 0
        self._is_done = False

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        self._waiting += chunk
        while not self._is_done and self._waiting and (self._inflate or self._open()) is not None:
            yield from self._inflated()
        if self._is_done:
            self._waiting = b""

    def _open(self) -> zlib._Decompress | None:
        """Opens the next member; None while too little of it is there, or only padding follows."""
        if self._is_gzip:
            self._waiting = self._waiting.lstrip(b"\0")
            self._inflate = zlib.decompressobj(wbits=31) if self._waiting else None
        elif len(self._waiting) > 1:
            has_header = self._waiting[0] & 15 == 8 and int.from_bytes(self._waiting[:2], "big") % 31 == 0
            self._inflate = zlib.decompressobj(wbits=15 if has_header else -15)
        return self._inflate

    def _inflated(self) -> Iterator[bytes]:
        inflate = self._inflate
        if inflate is None:
            return
        try:
            while self._waiting and not inflate.eof:
                piece = inflate.decompress(self._waiting, PIECE_BYTES)
                self._waiting = inflate.unconsumed_tail
                if piece:
                    yield piece
            while not inflate.eof and (piece := inflate.decompress(b"", PIECE_BYTES)):
                yield piece
        except zlib.error as fault:
            if not self._members:
                raise DecodingError(str(fault)) from None
            self._is_done = True  # what follows a whole member and is none itself is padding, as gzip(1) takes it
        if inflate.eof:
            self._members += 1
            self._waiting, self._inflate = inflate.unused_data, None
            self._is_done = not self._is_gzip


class _Brotli:
    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        while not self._decompressor.is_finished():
            try:
                piece = self._decompressor.process(chunk, output_buffer_limit=PIECE_BYTES)
            except brotli.error as fault:
                raise DecodingError(str(fault)) from None
            if not piece and self._decompressor.can_accept_more_data():
                return
            yield piece  # somewhat above the limit, since buffers double; more may wait though more is accepted
            chunk = b""


class _Zstd:
    """Any number of frames."""

    def __init__(self) -> None:
        self._decompressor = self._open()

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        try:
            while chunk or not self._decompressor.needs_input:
                piece = self._decompressor.decompress(chunk, PIECE_BYTES)
                if piece:
                    yield piece
                chunk = b""
                if self._decompressor.eof:
                    chunk, self._decompressor = self._decompressor.unused_data, self._open()
        except zstd.ZstdError as fault:
            raise DecodingError(str(fault)) from None

    @staticmethod
    def _open() -> zstd.ZstdDecompressor:
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


_DECODERS: dict[bytes, Callable[[], Decoder]] = {
    b"gzip": lambda: _Zlib(is_gzip=True),
    b"x-gzip": lambda: _Zlib(is_gzip=True),
    b"deflate": lambda: _Zlib(is_gzip=False),
    b"br": _Brotli,
    b"zstd": _Zstd,
}
