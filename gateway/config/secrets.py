"""Secrets come from the environment; with embedded stores, missing ones are generated once and stored.

`data_dir/secrets.json` is written under a lock, to a temporary file that replaces it whole: two processes that start
together agree on one set, and a crash leaves either none or all of it. A file that cannot be read is an error, never
replaced, since a new pepper would make every key unknown.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.document import Document
from gateway.config.errors import ConfigProblem, Origin
from policies.billing.providers import PROVIDERS, ProviderNames

ADMIN_TOKEN = "GATEWAY_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
KEY_PEPPER = "GATEWAY_KEY_PEPPER"
JWT_SECRET = "GATEWAY_JWT_SECRET"  # noqa: S105 - the name of a variable
WEBHOOK_SECRET = "GATEWAY_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable
OIDC_CLIENT_SECRET = "GATEWAY_OIDC_CLIENT_SECRET"  # noqa: S105 - the name of a variable
COMMAND = "command"  # the role of commands that use the database
REQUIRED = (ADMIN_TOKEN, KEY_PEPPER, JWT_SECRET)
# A process asks for no secret that it does not use. Commands compare the pepper and sign the audit log.
USED_BY: Mapping[str, tuple[str, ...]] = {
    "proxy": (KEY_PEPPER, JWT_SECRET),
    "admin": (ADMIN_TOKEN, KEY_PEPPER, OIDC_CLIENT_SECRET),
    "worker": (KEY_PEPPER, JWT_SECRET, WEBHOOK_SECRET),
    "portal": (KEY_PEPPER, JWT_SECRET),
    COMMAND: (KEY_PEPPER,),
}
ROLES = tuple(role for role in USED_BY if role != COMMAND)
_OF_ROLES = frozenset(name for names in USED_BY.values() for name in names)

VARIABLES: Mapping[str, str] = {
    ADMIN_TOKEN: "Token of the admin API that has every scope, at least 16 bytes.",
    KEY_PEPPER: "Secret of key digests; several as `2:new,1:old`, of which new keys take the highest version, "
    "at least 16 bytes.",
    JWT_SECRET: "Secret of access tokens and e-mail links, at least 32 bytes.",
    WEBHOOK_SECRET: "Secrets that sign outgoing webhooks, separated by commas.",
    OIDC_CLIENT_SECRET: "Secret of the console at the OpenID provider of `console.oidc`, if it has one.",
    **{
        variable: meaning
        for names in PROVIDERS.values()
        for variable, meaning in (
            (names.api_key_variable, f"API key of {names.title}; enables it."),
            (names.webhook_secret_variable, f"Secrets of {names.title}'s webhooks, separated by commas."),
        )
    },
}

_FILE = "secrets.json"
# 256 bits, the output of the hash that each of them is used with (RFC 7518 section 3.2).
_SECRET_BYTES = 32
# What nobody guesses; and what RFC 7518 section 3.2 wants of a key of HS256.
_LEAST_BYTES: Mapping[str, int] = {ADMIN_TOKEN: 16, KEY_PEPPER: 16, JWT_SECRET: 32}
_BASE64 = re.compile("[A-Za-z0-9+/]")
_VERSIONED = re.compile(r"\s*([1-9]\d{0,8}):(.+)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSecrets:
    """A payment provider's API key (None: it is not used) and its webhook secrets, all of them valid."""

    api_key: str | None = field(default=None, repr=False)
    webhook_secrets: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Credentials, which no repr shows.

    `required` has those of the three that the process uses. `key_peppers` by version; new keys are digested under
    `pepper_version`, the highest. Webhook secrets are all valid.
    """

    required: Mapping[str, str] = field(repr=False)
    key_peppers: Mapping[int, str] = field(repr=False)
    webhook_secrets: tuple[str, ...] = field(default=(), repr=False)
    oidc_client_secret: str | None = field(default=None, repr=False)
    providers: Mapping[str, ProviderSecrets] = field(repr=False)

    @property
    def admin_token(self) -> str:
        """Raises KeyError in a process that does not use it."""
        return self.required[ADMIN_TOKEN]

    @property
    def jwt_secret(self) -> str:
        """Raises KeyError in a process that does not use it."""
        return self.required[JWT_SECRET]

    @property
    def pepper_version(self) -> int:
        return max(self.key_peppers)

    @property
    def peppers(self) -> dict[int, bytes]:
        """The bytes that digests take, by version."""
        return {version: pepper.encode() for version, pepper in self.key_peppers.items()}


class SecretsUnusableError(Exception):
    """A secret is malformed or the file of secrets cannot be used; `name` is the variable or the file."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


# Each may be given as NAME_FILE, which names a file that holds it: an orchestrator mounts secrets so.
IN_FILES = (
    *VARIABLES,
    *(f"GATEWAY_{store}__{setting}" for store in ("DATABASE", "REDIS") for setting in ("URL", "PASSWORD")),
)


def used_by(*roles: str) -> frozenset[str]:
    """The secrets that these roles use together, among those that not every role uses."""
    return frozenset(name for role in roles for name in USED_BY.get(role, ()))


def withheld_from(*roles: str) -> frozenset[str]:
    """The secrets that other roles use, and these do not."""
    return _OF_ROLES - used_by(*roles)


def with_files(document: Document, environ: Mapping[str, str], *, roles: Collection[str]) -> dict[str, str]:
    """The environment with what files hold; a variable that is set itself wins. Reports files that cannot be read.

    Files of secrets that these roles do not use are not read.
    """
    withheld = withheld_from(*roles)
    found = dict(environ)
    for name in IN_FILES:
        path = environ.get(f"{name}_FILE", "").strip()
        found.pop(f"{name}_FILE", None)  # else GATEWAY_DATABASE__URL_FILE would be a setting
        if not path or environ.get(name, "").strip() or name in withheld:
            continue
        try:
            found[name] = Path(path).read_text("utf-8-sig").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            document.problems.append(ConfigProblem(Origin(f"{name}_FILE"), "", f"cannot be read: {error}"))
    return found


def read_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The required secrets that the environment has; an empty one is missing."""
    return {name: value for name in REQUIRED if (value := environ.get(name, "").strip())}


def stored_secrets(data_dir: Path, given: Mapping[str, str], *, persist: bool) -> dict[str, str]:
    """The three required secrets: those given, else those in `data_dir`, else new ones, which `persist` stores.

    Raises SecretsUnusableError for a file that cannot be read.
    """
    known = {**_read_stored(data_dir / _FILE), **given}
    missing = [name for name in REQUIRED if name not in known]
    if not missing:
        return known
    if not persist:
        return known | {name: secrets.token_urlsafe(_SECRET_BYTES) for name in missing}
    with _locked(data_dir):
        kept = _read_stored(data_dir / _FILE)
        fresh = {name: secrets.token_urlsafe(_SECRET_BYTES) for name in missing if name not in kept}
        if fresh:
            _replace(data_dir / _FILE, kept | fresh)
        return {**kept, **fresh, **given}


def secrets_of(required: Mapping[str, str], environ: Mapping[str, str]) -> Secrets:
    """Raises SecretsUnusableError for a pepper with unclear versions, or a webhook's secret without a key."""
    return Secrets(
        required=required,
        key_peppers=_peppers(required[KEY_PEPPER]) if KEY_PEPPER in required else {},
        webhook_secrets=_signing_secrets("GATEWAY_WEBHOOK_SECRET", environ),
        oidc_client_secret=environ.get(OIDC_CLIENT_SECRET, "").strip() or None,
        providers={name: _provider_secrets(names, environ) for name, names in PROVIDERS.items()},
    )


def short_secrets(found: Secrets) -> dict[str, str]:
    """What is wrong with secrets that can be guessed, by variable. Of peppers only that of new keys counts."""
    used = dict(found.required)
    if found.key_peppers:
        used[KEY_PEPPER] = found.key_peppers[found.pepper_version]
    return {
        name: f"must have {_LEAST_BYTES[name]} bytes at least; `openssl rand -hex 32` makes one"
        for name, secret in used.items()
        if len(secret.encode()) < _LEAST_BYTES[name]
    }


def _provider_secrets(names: ProviderNames, environ: Mapping[str, str]) -> ProviderSecrets:
    return ProviderSecrets(
        api_key=environ.get(names.api_key_variable, "").strip() or None,
        webhook_secrets=_several(environ.get(names.webhook_secret_variable, "")),
    )


def _signing_secrets(name: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Text of base64 after `whsec_`, or any other text (`gateway/notifications/webhook.py`)."""
    found = _several(environ.get(name, ""))
    for secret in found:
        encoded = secret.removeprefix("whsec_")
        if encoded != secret and not (encoded.isascii() and _BASE64.search(encoded)):
            raise SecretsUnusableError(name, "must have base64 after `whsec_`")
    return found


def _several(value: str) -> tuple[str, ...]:
    return tuple(secret.strip() for secret in value.split(",") if secret.strip())


def _peppers(value: str) -> dict[int, str]:
    """`2:new,1:old` by version; one secret without a version is version 1. A comma always separates."""
    parts = _several(value)
    matches = [match for part in parts if (match := _VERSIONED.fullmatch(part))]
    if not matches and len(parts) == 1:
        return {1: parts[0]}
    peppers = {int(match[1]): match[2] for match in matches}
    if not parts or len(peppers) != len(parts):
        raise SecretsUnusableError(KEY_PEPPER, "must give each secret a version of its own, as 2:newsecret,1:oldsecret")
    return peppers


def _read_stored(file: Path) -> dict[str, str]:
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SecretsUnusableError(str(file), f"cannot be read: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, str) and value for value in content.values()):
        raise SecretsUnusableError(str(file), "must be a JSON object of names and secrets")
    return content


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """A lock between processes; the kernel releases that of a process that dies."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data_dir / f"{_FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SecretsUnusableError(str(data_dir), f"cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(file: Path, content: Mapping[str, str]) -> None:
    """Replaces the file whole or not at all, even in a power cut: its content reaches the disk before its name."""
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{_FILE}.")  # mode 0600 from the start
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        json.dump(content, handle, indent=2)
        handle.flush()
        os.fsync(handle.fileno())
    Path(temporary).replace(file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
