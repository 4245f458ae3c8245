"""The bytes of a response on their way to its texts: decoded, then framed, until they are not what was said."""

from __future__ import annotations

from dataclasses import replace

from gateway.proxy.metering.decoding import Decoder, DecodingError, open_decoder
from gateway.proxy.metering.documents.reader import DocumentReader, End, Glance
from gateway.proxy.metering.documents.scanner import OnDocument
from gateway.proxy.metering.framing import open_framing
from gateway.proxy.metering.framing.untold import UntoldBody
from policies.usage.counts import MissingReason

MAX_DECODED_BYTES = 1024 * 1024 * 1024  # of one response; what is larger is a decompression bomb
_NOTHING = Glance()


class Body:
    """Takes the bytes of a response. `fault` says why no more of it is read, None while it is.

    `framing` is None where the content type is none that can be read.
    """

    def __init__(self, content_type: bytes, content_encoding: bytes, documents: DocumentReader) -> None:
        self.fault: MissingReason | None = None
        self._documents = documents
        self.framing = open_framing(content_type, documents)
        self._decoder: Decoder | None = None
        self._decoded_bytes = 0
        if self.framing is None:
            self.fault = MissingReason.SHAPE
        try:
            self._decoder = open_decoder(content_encoding)
        except DecodingError:
            self.fault = MissingReason.ENCODING

    @property
    def is_broken(self) -> bool:
        """Whether a frame or a text that has ended was not what it must be."""
        return self._documents.broken > 0 or (self.framing is not None and self.framing.is_broken)

    @property
    def plain_bytes(self) -> int:
        """How much text the body is where nothing can be read of it, and its type says no more than that."""
        return self.framing.plain_bytes if isinstance(self.framing, UntoldBody) else 0

    def feed(self, chunk: bytes) -> None:
        if self.fault is not None or self.framing is None:
            return
        if self._decoder is None:
            self.framing.feed(chunk)
            return
        try:
            for piece in self._decoder.decode(chunk):
                self._decoded_bytes += len(piece)
                if self._decoded_bytes > MAX_DECODED_BYTES:
                    self.fault = MissingReason.SIZE
                    return
                self.framing.feed(piece)
        except DecodingError:
            self.fault = MissingReason.ENCODING

    def peek(self, handle: OnDocument) -> Glance:
        """Gives `handle` what the open text has said so far. It is whole only as the whole body."""
        if self.framing is None or not self._documents.size or not self.framing.is_readable_open:
            return _NOTHING
        glance = self._documents.peek(handle)
        is_part = glance.end is End.WHOLE and self.framing.is_stream
        return replace(glance, end=End.CUT_OFF) if is_part else glance
