"""API keys: scopes, secrets and their digests, static keys from the settings, and the audit log.

The audit log has a line for every use of a key, refusal, login and deletion, and for every key created or revoked. Its
logger is ``mild_service.audit``; a line never contains a secret.
"""

import hashlib
import logging
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from mild_service.errors import ConfigurationError, InvalidRequest

audit_logger = logging.getLogger("mild_service.audit")

Scope: TypeAlias = Literal["read", "write", "admin"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
"""All scopes, in ascending order: each includes those before it."""
SECRET_PREFIX = "mild_"
"""Prefix of every generated secret, by which scanners for leaked secrets recognise it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_PREFIX = re.compile(r"|[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET = re.compile(r"[!-~]{20,512}")
"""Shorter static keys could be guessed."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, without its secret.

    Attributes
    ----------
    key_id
        Identifier of the key in lists and in the audit log.
    name
        Name of the key, chosen by its creator.
    scope
        Scope of the requests that the key permits.
    prefix
        Prefix of the ids of the runs that the key gives access to; empty for all runs.
    created_at, expires_at, revoked_at, used_at
        Unix time in seconds; None if the key does not expire, was not revoked or was not used.
    """

    key_id: str
    name: str
    scope: Scope
    prefix: str = ""
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    used_at: float | None = None

    def allows(self, scope: Scope) -> bool:
        """Return whether the key permits requests that need `scope`."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)

    def covers(self, run_id: str) -> bool:
        """Return whether the key gives access to a run, whose id then starts with the key's prefix."""
        return run_id.startswith(self.prefix)

    def state(self, now: float) -> Literal["live", "revoked", "expired"]:
        """Return the state of the key at Unix time `now` in seconds."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "live"


ANONYMOUS = ApiKey("anonymous", "anonymous", "admin")
"""The key of every caller if the service requires no key."""


def generate_secret() -> str:
    """Return a new secret with 256 random bits."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def generate_key(name: str, scope: Scope, prefix: str, created_at: float, expires_at: float | None) -> ApiKey:
    """Return a new key with a random id.

    Parameters
    ----------
    name, scope, prefix
        As in `ApiKey`.
    created_at, expires_at
        Unix time in seconds; `expires_at` is None if the key does not expire.
    """
    _check_key(name, scope, prefix)
    return ApiKey(secrets.token_hex(6), name, scope, prefix, created_at, expires_at)


def hash_secret(secret: str) -> str:
    """Return the SHA-256 of a secret in hex, which is stored and looked up in place of the secret.

    A plain SHA-256 is enough: a secret with 256 random bits cannot be guessed, and the time of a lookup by digest does
    not reveal how many characters of a wrong secret are right.
    """
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def parse_static_keys(text: str) -> Mapping[str, ApiKey]:
    """Parse the setting MILD_API_KEYS; return the keys by the digests of their secrets.

    Entries are separated by commas or spaces. An entry is ``name:scope:prefix:secret``, or only a secret, whose key has
    the scope admin for all runs.
    """
    keys: dict[str, ApiKey] = {}
    for position, entry in enumerate(text.replace(",", " ").split(), start=1):
        secret, key = _parse_entry(entry, position)
        if hash_secret(secret) in keys or key.key_id in {other.key_id for other in keys.values()}:
            raise ConfigurationError(f"entry {position} of MILD_API_KEYS repeats a name or a key; leave it out")
        keys[hash_secret(secret)] = key
    return keys


def _parse_entry(entry: str, position: int) -> tuple[str, ApiKey]:
    """Return the secret and the key of one entry; `position` is its number for error messages."""
    parts = entry.split(":")
    secret = parts[-1]
    if len(parts) not in (1, 4) or not _SECRET.fullmatch(secret):
        raise ConfigurationError(
            f"entry {position} of MILD_API_KEYS is neither a key of 20 to 512 characters nor name:scope:prefix:key "
            "with such a key (it is not shown here); make one with: python -c "
            "\"import secrets; print('mild_' + secrets.token_urlsafe(32))\""
        )
    if len(parts) == 1:
        name = f"static-{hash_secret(secret)[:8]}"
        return secret, ApiKey(name, name, "admin")
    name, scope, prefix, _ = parts
    try:
        checked = _check_key(name, scope, prefix)
    except InvalidRequest as error:
        raise ConfigurationError(f"entry {position} of MILD_API_KEYS: {error}") from error
    return secret, ApiKey(f"static-{name}", name, checked, prefix)


def _check_key(name: str, scope: str, prefix: str) -> Scope:
    """Check the fields of a key, and return its scope."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"the name of a key is {name!r}; give 1 to 64 letters, digits or any of '._@-', a letter or digit first"
        )
    if not _PREFIX.fullmatch(prefix):
        raise InvalidRequest(f"the prefix of a key is {prefix!r}; give the start of run ids, such as team-a-, or none")
    for valid_scope in SCOPES:
        if scope == valid_scope:
            return valid_scope
    raise InvalidRequest(f"the scope of a key is {scope!r}; give one of {', '.join(SCOPES)}")


def log_audit_event(event: str, key: ApiKey | None, **details: str | int | None) -> None:
    """Write a line to the audit log.

    Parameters
    ----------
    event
        Name of the event.
    key
        The key of the caller; None if the caller has no valid key.
    details
        Further fields of the line; those that are None or empty are omitted.
    """
    if not audit_logger.isEnabledFor(logging.INFO):
        return
    key_fields = (
        {} if key is None else {"key": key.key_id, "key_name": key.name, "scope": key.scope, "prefix": key.prefix}
    )
    fields = {name: value for name, value in {**key_fields, **details}.items() if value not in (None, "")}
    text = " ".join(f"{name}={value!r}" for name, value in fields.items())
    audit_logger.info("%s %s", event, text, extra={"event": event, **fields})
