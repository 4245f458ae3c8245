"""Forms as request bodies: none that holds a key of the gateway is forwarded.

Bodies are never changed, so such a form is refused. Other bodies are content, which is not read.
"""

from __future__ import annotations

from gateway.proxy.request.api_keys import KeyForm
from policies.model import Refusal, Refused

_URL_ENCODED, _MULTIPART = b"application/x-www-form-urlencoded", b"multipart/form-data"
MAX_FORM_READ_BYTES = 64 * 1024  # a form of so many bytes is read before its call is admitted


def is_form(content_type: bytes) -> bool:
    return content_type[: len(_URL_ENCODED)].lower().startswith((_URL_ENCODED, _MULTIPART))


class FormScan:
    """Looks for a key in a form that streams; its last bytes wait, for they may be the beginning of one."""

    __slots__ = ("_form", "_held", "_is_encoded")

    def __init__(self, content_type: bytes, form: KeyForm) -> None:
        self._form = form
        self._is_encoded = content_type[: len(_URL_ENCODED)].lower() == _URL_ENCODED
        self._held = b""

    def check(self, content: bytes) -> None:
        """Raises Refused if the content holds a key."""
        if self._form.is_in(content) if self._is_encoded else self._form.is_in_plain(content):
            detail = "The form holds an API key of this gateway; send the key as 'Authorization: Bearer KEY' instead."
            raise Refused(Refusal.BAD_REQUEST, detail)

    def pass_on(self, chunk: bytes, *, more: bool) -> bytes:
        """What of the form can go on; raises Refused once it holds a key."""
        content = self._held + chunk if self._held else chunk
        self.check(content)
        end = max(0, len(content) - self._form.longest + 1) if more else len(content)
        self._held = content[end:]
        return content[:end]
