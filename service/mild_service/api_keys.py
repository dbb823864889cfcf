"""Who asks: API keys, what each may do, and the digest that is kept in place of its secret.

The audit log: a line for every use of a key, every refusal, login and deletion, and every key made or revoked.

Lines go to the logger ``mild_service.audit``, with their fields as text and, for structured formats, by name. A secret
is never among what is told.
"""

import hashlib
import logging
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mild_service.errors import ConfigurationError, InvalidRequest

Scope: TypeAlias = Literal["read", "write", "admin"]

SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
"""Each includes those before it."""
SECRET_PREFIX = "mild_"
"""What every key that is made here begins with, so that scanners for leaked secrets know it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_PREFIX = re.compile(r"|[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET = re.compile(r"[!-~]{20,512}")
"""Shorter static keys could be guessed."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret.

    Attributes
    ----------
    key_id
        Names it in lists and in the audit log.
    name
        Free, for people.
    scope
        What it may do.
    prefix
        Start of the ids of the runs that it reaches; empty: all of them.
    created_at, expires_at, revoked_at, used_at
        Unix time in seconds; None where it has not happened, or never will.
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
        """Whether it may do what needs `scope`."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)

    def reaches(self, run_id: str) -> bool:
        """Whether a run lies within its prefix."""
        return run_id.startswith(self.prefix)

    def state(self, now: float) -> Literal["live", "revoked", "expired"]:
        """Whether it counts at Unix time `now`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "live"


ANONYMOUS = ApiKey("anonymous", "anonymous", "admin")
"""Who asks where nobody has to say who they are."""


def generate_secret() -> str:
    """256 random bits as text."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def generate_key(name: str, scope: Scope, prefix: str, created_at: float, expires_at: float | None) -> ApiKey:
    """A key with an id of its own.

    Raises
    ------
    InvalidRequest
        If its name, or the prefix, could not be one.
    """
    _check(name, scope, prefix)
    return ApiKey(secrets.token_hex(6), name, scope, prefix, created_at, expires_at)


def secret_digest(secret: str) -> str:
    """What is stored, and looked up, in place of a secret.

    A plain hash is enough: the secret has 256 random bits, which nobody can try out, and looking up its digest takes
    the same time whatever part of it was right.
    """
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def parse_static_keys(text: str) -> Mapping[str, ApiKey]:
    """Keys from a setting, by digest: entries between commas or spaces, each ``name:scope:prefix:key`` or a bare key.

    A bare key is an admin's, for all runs.

    Raises
    ------
    ConfigurationError
        If an entry is none. The error does not show it.
    """
    found: dict[str, ApiKey] = {}
    for position, entry in enumerate(text.replace(",", " ").split(), start=1):
        secret, key = _static(entry, position)
        if secret_digest(secret) in found or key.key_id in {other.key_id for other in found.values()}:
            raise ConfigurationError(f"entry {position} of MILD_API_KEYS repeats a name or a key; leave it out")
        found[secret_digest(secret)] = key
    return found


def _static(entry: str, position: int) -> tuple[str, ApiKey]:
    parts = entry.split(":")
    secret = parts[-1]
    if len(parts) not in (1, 4) or not _SECRET.fullmatch(secret):
        raise ConfigurationError(
            f"entry {position} of MILD_API_KEYS is neither a key of 20 to 512 characters nor name:scope:prefix:key "
            "with such a key (it is not shown here); make one with: python -c "
            "\"import secrets; print('mild_' + secrets.token_urlsafe(32))\""
        )
    if len(parts) == 1:
        name = f"static-{secret_digest(secret)[:8]}"
        return secret, ApiKey(name, name, "admin")
    name, scope, prefix, _ = parts
    try:
        checked = _check(name, scope, prefix)
    except InvalidRequest as error:
        raise ConfigurationError(f"entry {position} of MILD_API_KEYS: {error}") from error
    return secret, ApiKey(f"static-{name}", name, checked, prefix)


def _check(name: str, scope: str, prefix: str) -> Scope:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"the name of a key is {name!r}; give 1 to 64 letters, digits or any of '._@-', a letter or digit first"
        )
    if not _PREFIX.fullmatch(prefix):
        raise InvalidRequest(f"the prefix of a key is {prefix!r}; give the start of run ids, such as team-a-, or none")
    for known in SCOPES:
        if scope == known:
            return known
    raise InvalidRequest(f"the scope of a key is {scope!r}; give one of {', '.join(SCOPES)}")


audit_logger = logging.getLogger("mild_service.audit")


def log_audit_event(event: str, key: ApiKey | None, **told: str | int | None) -> None:
    """Write down an event, and whose key it was."""
    if not audit_logger.isEnabledFor(logging.INFO):
        return
    who = {} if key is None else {"key": key.key_id, "key_name": key.name, "scope": key.scope, "prefix": key.prefix}
    fields = {name: value for name, value in {**who, **told}.items() if value not in (None, "")}
    text = " ".join(f"{name}={value!r}" for name, value in fields.items())
    audit_logger.info("%s %s", event, text, extra={"event": event, **fields})
