"""A request as the client sent it: the fields the gateway acts on, and the block of end-to-end fields.

One pass drops, rewrites or forwards each field by one table; it runs once for as long as a client repeats its fields.
What a client says of itself in `X-Gateway-*` and `X-Forwarded-*` is never forwarded, in any spelling.
A field that holds a key of the gateway is neither forwarded nor recorded, nor is such a parameter of the query.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from gateway.http.fields import Header, HeaderBlock, header_block, list_members
from gateway.proxy.request.api_keys import (
    DEFAULT_FORM,
    KeyField,
    KeyForm,
    SentKeys,
    read_key_field,
    sort_keys,
    take_from_query,
    take_from_subprotocols,
)
from gateway.proxy.request.client_address import Network, client_address, is_in, peer_address
from gateway.proxy.request.forms import is_form
from gateway.proxy.request.forwardable import Passage, hops_left, passage_of, rewritten
from gateway.request_ids import is_echoable
from policies.access.keys import KEY_FIELDS

__all__ = ["ConnectionCache", "Inbound", "Network", "Trace", "read_request", "tracing_block"]

MAX_TEXT_LENGTH = 200  # of what a client says of its call

# Fields that the gateway reads; `forwardable.py` says which of them it also forwards.
_READ = frozenset(
    {
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"content-encoding",
        b"content-disposition",
        b"connection",
        b"expect",
        b"host",
        b"idempotency-key",
        b"max-forwards",
        b"x-request-id",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"forwarded",
        b"traceparent",
        b"tracestate",
        b"via",
        b"x-language-code",
        b"x-category",
        b"x-batch-id",
        b"x-file-name",
        b"upgrade",
        b"sec-websocket-key",
        b"sec-websocket-version",
    }
)
_REWRITTEN, _DROPPED, _WITHHELD = Passage.REWRITTEN, Passage.DROPPED, Passage.WITHHELD
# W3C Trace Context section 3.2: version 00, a trace and a parent that are not all zeros, flags.
_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


class InboundSlot(Protocol):
    """Where a connection keeps the last request, as long as its client repeats all fields but those that may vary."""

    value: Inbound | None


class RepeatingClient(Protocol):
    """A client that repeats most of its fields: where its last request is kept, and what may vary while it is.

    Without a slot, or with a key in the query, a request is read whole.
    """

    @property
    def application_slot(self) -> InboundSlot | None: ...

    @property
    def varying_fields(self) -> dict[bytes, bytes]: ...

    @property
    def key_fields(self) -> dict[bytes, bytes]: ...


class _Unrepeated:
    application_slot: InboundSlot | None = None
    varying_fields: dict[bytes, bytes] = {}  # noqa: RUF012 - nobody writes it
    key_fields: dict[bytes, bytes] = {}  # noqa: RUF012 - the same


class Trace(NamedTuple):
    """The trace of a trusted proxy: its id and flags in hexadecimal, and the line of its state, if any."""

    id: str
    flags: str
    state: str


class ConnectionCache:
    """What stays the same from one request of a connection to the next, for as long as its fields do.

    `request_block` holds the fields towards the upstream, rendered for the caller of `identity_block` and for
    `destination`, and `has_host` is whether Host is one. `label_columns` are the columns of records that the client
    fills by fields.
    """

    __slots__ = ("destination", "has_host", "identity_block", "key", "key_digest", "label_columns", "request_block")

    def __init__(self) -> None:
        self.key: bytes | None = None
        self.key_digest: bytes | None = None
        self.label_columns: str | None = None
        self.identity_block: HeaderBlock | None = None
        self.destination: object = None
        self.request_block = header_block(b"")
        self.has_host = False


class Inbound(NamedTuple):
    """One request as the gateway reads it. Requests that repeat their fields share all but the first line.

    `varying_fields` and `key_fields` may differ while the client repeats all others, as the listener tells them.
    `fields` holds what the gateway acts on, by lower-cased name. `end_to_end` is the block of the client's fields that
    are forwarded, `forwarded_headers` that of X-Forwarded-* and Via. An upstream must allow `withheld` fields by name,
    and `credentials`, which are meant for it, as such. `content_length` is None for a chunked body.
    """

    method: str
    raw_path: bytes
    query: bytes
    # Behind the first line: what comes of varying fields, what comes of key fields, and then the rest.
    varying_fields: dict[bytes, bytes]
    fields: dict[bytes, bytes]
    client_ip: str
    forwarded_headers: HeaderBlock
    trace: Trace | None
    client_request_id: str | None
    content_length: int | None
    key_fields: dict[bytes, bytes]
    credentials: HeaderBlock
    sent_keys: SentKeys
    cache: ConnectionCache
    scheme: str
    peer: str
    is_from_trusted_proxy: bool
    end_to_end: HeaderBlock
    withheld: tuple[Header, ...]
    http_version: str
    is_form: bool
    key_form: KeyForm

    @property
    def target(self) -> bytes:
        return self.raw_path + b"?" + self.query if self.query else self.raw_path

    @property
    def is_at_last_hop(self) -> bool:
        """Whether the request may not be forwarded, but is to be answered here."""
        return hops_left(self.method, self.fields.get(b"max-forwards", b"")) == 0

    def api_key(self, *, is_websocket_route: bool = False) -> bytes:
        """The key as sent, which the cache then has; raises Refused for none where the route takes it, or several."""
        takes_query = is_websocket_route or self.key_form.is_query_allowed
        key = self.cache.key = self.sent_keys.choose(takes_query=takes_query, takes_subprotocol=is_websocket_route)
        return key

    def text(self, name: bytes) -> str | None:
        """A field that goes into a record, shortened."""
        value = self.fields.get(name)
        return None if value is None else value.decode("utf-8", "replace")[:MAX_TEXT_LENGTH]


def read_request(
    scope: Any,
    trusted_proxies: Sequence[Network] = (),
    client: RepeatingClient = _Unrepeated(),  # noqa: B008 - it has no state
    *,
    key_form: KeyForm = DEFAULT_FORM,
) -> Inbound:
    """Reads an ASGI HTTP scope; of a client that repeats its fields only the first line and what varies."""
    slot, varying, keys = client.application_slot, client.varying_fields, client.key_fields
    known = None if slot is None else slot.value
    if slot is not None and known is not None:
        if varying is not known.varying_fields and varying != known.varying_fields:
            known = slot.value = _with_varying(known, varying, trusted_proxies)
        if known is not None and keys is not known.key_fields and keys != known.key_fields:
            known = slot.value = _with_keys(known, keys)
    query = scope["query_string"]
    if query and key_form.is_in(query):
        return _read(scope, trusted_proxies, client, query=query, key_form=key_form)
    if known is not None:
        method, raw_path = scope["method"], scope["raw_path"]
        if raw_path == known.raw_path and method == known.method and query == known.query:
            return known
        return Inbound(method, raw_path, query, *known[3:])
    inbound = _read(scope, trusted_proxies, client, query=query, key_form=key_form)
    # A key among the subprotocols is good for some routes only, and Max-Forwards counts for some methods only, so both
    # are looked for in each request.
    if slot is not None and not inbound.sent_keys.in_subprotocols and b"max-forwards" not in inbound.fields:
        slot.value = inbound
    return inbound


def tracing_block(inbound: Inbound, own_id: str) -> HeaderBlock:
    """The fields of this request alone: its id and its trace. `own_id` is a UUID, whose digits the trace takes.

    W3C Trace Context: a trusted proxy's trace continues under the gateway's own parent id; any other starts here.
    """
    digits = own_id.replace("-", "")
    sent, trace = inbound.client_request_id or own_id, inbound.trace
    if trace is None:
        lines = f"x-request-id: {sent}\r\ntraceparent: 00-{digits}-{digits[16:]}-01\r\n"
    else:
        traceparent = f"00-{trace.id}-{digits[16:]}-{trace.flags}"
        lines = f"x-request-id: {sent}\r\ntraceparent: {traceparent}\r\n{trace.state}"
    return HeaderBlock(lines.encode("latin-1"))  # ids of known letters, and a state that the listener has checked


class _ClientFields(NamedTuple):
    """The fields of a client, sorted; a field that holds a key is in none of them but `key_fields`."""

    read: dict[bytes, bytes]
    end_to_end: HeaderBlock
    withheld: tuple[Header, ...]
    key_fields: list[KeyField]
    keys_in_subprotocols: frozenset[bytes]


def _sort_fields(headers: Sequence[Header], form: KeyForm, *, method: str) -> _ClientFields:
    read: dict[bytes, bytes] = {}
    end_to_end: list[bytes] = []
    withheld: list[Header] = []
    key_fields: list[KeyField] = []
    keys: frozenset[bytes] = frozenset()
    named = _named_in_connection(headers)
    for name, value in headers:
        if name in KEY_FIELDS:
            key_fields.append(_key_field(name, value, form, named=named))
            continue
        if form.is_in(value):
            if name == b"idempotency-key":  # its digest alone is kept
                read[name] = value
            value, found = _without_keys(name, value, form)
            keys |= found
            if not value:
                continue
        if name in _READ:
            read[name] = read[name] + b", " + value if name in read else value
        passage = passage_of(name)
        if passage is _DROPPED or name in named:
            continue
        if passage is _WITHHELD:
            withheld.append((name, value))
            continue
        if passage is _REWRITTEN and not (value := rewritten(name, value, method)):
            continue
        end_to_end += (name, b": ", value, b"\r\n")
    return _ClientFields(read, header_block(b"".join(end_to_end)), tuple(withheld), key_fields, keys)


def _key_field(name: bytes, value: bytes, form: KeyForm, *, named: frozenset[bytes]) -> KeyField:
    field = read_key_field(name, value, form)
    return field._replace(is_forwardable=False) if name in named else field


def _without_keys(name: bytes, value: bytes, form: KeyForm) -> tuple[bytes, frozenset[bytes]]:
    """What goes on of a field that holds a key, and the keys among subprotocols."""
    return take_from_subprotocols(value, form) if name == b"sec-websocket-protocol" else (b"", frozenset())


def _credentials(key_fields: Sequence[KeyField], sent_keys: SentKeys) -> HeaderBlock:
    """The key fields that are meant for the upstream: without a key of the gateway's form, one of them is the key."""
    has_own = bool(sent_keys.in_fields or sent_keys.in_query or sent_keys.in_subprotocols)
    meant = [field for field in key_fields if field.is_forwardable and (has_own or field.key is None)]
    return header_block(b"".join(b"%b: %b\r\n" % (field.name, field.value) for field in meant))


def _read(
    scope: Any, trusted_proxies: Sequence[Network], client: RepeatingClient, *, query: bytes, key_form: KeyForm
) -> Inbound:
    query, keys_in_query = take_from_query(query, key_form)
    fields, end_to_end, withheld, key_fields, keys_in_subprotocols = _sort_fields(
        scope["headers"], key_form, method=scope["method"]
    )
    sent_keys = sort_keys(key_fields, key_form, in_query=keys_in_query, in_subprotocols=keys_in_subprotocols)
    peer = peer_address(scope["client"][0]) if scope["client"] else ""
    trusted = bool(trusted_proxies) and is_in(peer, trusted_proxies)
    client_ip = client_address(peer, fields, trusted_proxies) if trusted else peer
    sent_id = fields.get(b"x-request-id")
    return Inbound(
        method=scope["method"],
        raw_path=scope["raw_path"],
        query=query,
        varying_fields=client.varying_fields,
        fields=fields,
        client_ip=client_ip,
        forwarded_headers=_forwarded_headers(
            fields, client_ip, scheme=scope["scheme"], proxy=peer if trusted else None
        ),
        trace=_trace(fields) if trusted else None,
        client_request_id=sent_id.decode() if sent_id is not None and is_echoable(sent_id) else None,
        content_length=_length(fields),
        key_fields=client.key_fields,
        credentials=_credentials(key_fields, sent_keys),
        sent_keys=sent_keys,
        cache=ConnectionCache(),
        scheme=scope["scheme"],
        peer=peer,
        is_from_trusted_proxy=trusted,
        end_to_end=end_to_end,
        withheld=withheld,
        http_version=scope["http_version"],
        is_form=is_form(fields.get(b"content-type", b"")),
        key_form=key_form,
    )


def _with_varying(known: Inbound, varying: dict[bytes, bytes], trusted_proxies: Sequence[Network]) -> Inbound | None:
    """The request with these fields in place of the ones that varied; None where one holds a key."""
    if known.key_form.is_in(b"\n".join(varying.values())):
        return None
    fields, client_ip, forwarded, trace = known.fields | varying, known.client_ip, known.forwarded_headers, None
    if known.is_from_trusted_proxy:
        trace = _trace(fields)
        if varying.get(b"x-forwarded-for") != known.varying_fields.get(b"x-forwarded-for"):
            client_ip = client_address(known.peer, fields, trusted_proxies)
            forwarded = _forwarded_headers(fields, client_ip, scheme=known.scheme, proxy=known.peer)
    sent_id = fields.get(b"x-request-id")
    client_request_id = sent_id.decode() if sent_id is not None and is_echoable(sent_id) else None
    content_length = _length(fields) if b"content-length" in varying else known.content_length
    varied = varying, fields, client_ip, forwarded, trace, client_request_id, content_length
    return Inbound._make((*known[:3], *varied, *known[10:]))  # `_replace` takes three times as long


def _with_keys(known: Inbound, key_fields: dict[bytes, bytes]) -> Inbound:
    """The request with other keys: nothing that was derived from the last ones stays."""
    form, named = known.key_form, _named_in_connection([(b"connection", known.fields.get(b"connection", b"close"))])
    read = [_key_field(name, value, form, named=named) for name, value in key_fields.items()]
    sent_keys = sort_keys(read, form, in_query=frozenset(), in_subprotocols=frozenset())
    cache = ConnectionCache()
    cache.label_columns = known.cache.label_columns
    return Inbound._make((*known[:10], key_fields, _credentials(read, sent_keys), sent_keys, cache, *known[14:]))


def _length(fields: dict[bytes, bytes]) -> int | None:
    """None also for an invalid length: the listener refuses those, and a body may follow."""
    length = fields.get(b"content-length", b"0")
    return int(length) if length.isdigit() and b"transfer-encoding" not in fields else None


def _forwarded_headers(fields: dict[bytes, bytes], client_ip: str, *, scheme: str, proxy: str | None) -> HeaderBlock:
    """X-Forwarded-* and Via; those that came with the request count only from a trusted proxy."""
    forwarded_for, proto, host = client_ip.encode(), b"", b""
    if proxy is not None:
        proto, host = fields.get(b"x-forwarded-proto", b""), fields.get(b"x-forwarded-host", b"")
        if b"x-forwarded-for" in fields:
            forwarded_for = b"%b, %b" % (fields[b"x-forwarded-for"], proxy.encode())
    via = fields[b"via"] + b", 1.1 gateway" if b"via" in fields else b"1.1 gateway"
    return header_block(
        b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\nvia: %b\r\n"
        % (forwarded_for, proto or scheme.encode(), host or fields.get(b"host", b""), via)
    )


def _trace(fields: dict[bytes, bytes]) -> Trace | None:
    found = _TRACEPARENT.fullmatch(fields.get(b"traceparent", b""))
    if found is None:
        return None
    state = fields.get(b"tracestate")
    line = header_block(b"tracestate: %b\r\n" % state if state else b"")
    return Trace(found[1].decode(), found[2].decode(), line.decode("latin-1"))


def _named_in_connection(headers: Sequence[tuple[bytes, bytes]]) -> frozenset[bytes]:
    named: frozenset[bytes] = frozenset()
    for name, value in headers:
        if name == b"connection" and value not in (b"keep-alive", b"close", b"Keep-Alive"):
            named |= frozenset(list_members(value))
    return named
