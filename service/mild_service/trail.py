"""The audit log: a line of JSON for every use of a key, every login and deletion, and every key made or revoked.

Lines go to the logger ``mild_service.audit``. A secret is never among what is told.
"""

import logging

import orjson

from mild_service.identity import ApiKey

logger = logging.getLogger("mild_service.audit")


def tell(event: str, key: ApiKey | None, **told: str | int | float | None) -> None:
    """Write down an event, and whose key it was."""
    who = {} if key is None else {"key": key.key_id, "name": key.name, "scope": key.scope, "prefix": key.prefix}
    logger.info("%s", orjson.dumps({"event": event, **who, **told}).decode())
