"""The audit log: a line for every use of a key, every refusal, login and deletion, and every key made or revoked.

Lines go to the logger ``mild_service.audit``, with their fields as text and, for structured formats, by name. A secret
is never among what is told.
"""

import logging

from mild_service.identity import ApiKey

logger = logging.getLogger("mild_service.audit")


def tell(event: str, key: ApiKey | None, **told: str | int | None) -> None:
    """Write down an event, and whose key it was."""
    if not logger.isEnabledFor(logging.INFO):
        return
    who = {} if key is None else {"key": key.key_id, "key_name": key.name, "scope": key.scope, "prefix": key.prefix}
    fields = {name: value for name, value in {**who, **told}.items() if value not in (None, "")}
    text = " ".join(f"{name}={value!r}" for name, value in fields.items())
    logger.info("%s %s", event, text, extra={"event": event, **fields})
