"""Checksums of stored values, by which a value that has changed or is not in its place is noticed.

Every value of a hash with bits, labels, ids, wrong predictions or a cached selection ends with 8 bytes: the XXH3 (64
bits) of its content, with the hash of its place as the seed. The place is the key's name within the run, without the
run's id and uid, and the field. So a value that was moved or swapped does not match either, and an archive can be
imported under another name: between runs, the names of fields differ, since they contain digests or are random.
"""

import logging
from collections.abc import Iterable, Sequence

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from mild_service.errors import StoreDamaged
from mild_service.store.context import StoreContext
from mild_service.store.error_translation import to_bytes_list, translate_errors
from mild_service.store.keys import describe_value, find_remedy, name_in_run

logger = logging.getLogger(__name__)

CHECKSUM_BYTES = 8


def has_checksums(key: str) -> bool:
    """Return whether the values of a run's hash have checksums; records are text without."""
    return name_in_run(key).startswith(("chunk:", "votes:", "truth:", "ids:", "cache:"))


def seal(key: str, field: str, content: bytes) -> bytes:
    """Return the value to store for `content` in a field: the content and its checksum."""
    return content + _compute(key, field, content)


def is_intact(key: str, field: str, value: bytes) -> bool:
    """Return whether the checksum of a stored value matches its content and its place."""
    return len(value) >= CHECKSUM_BYTES and value[-CHECKSUM_BYTES:] == _compute(
        key, field, memoryview(value)[:-CHECKSUM_BYTES]
    )


def unseal(key: str, field: str, value: bytes) -> memoryview:
    """Return the content of a stored value."""
    if not is_intact(key, field, value):
        raise StoreDamaged(f"{describe_value(key, field)} is damaged in the store ({key}); {find_remedy(key, field)}")
    return memoryview(value)[:-CHECKSUM_BYTES]


def unseal_all(key: str, fields: Sequence[str], values: Sequence[bytes | None]) -> list[memoryview]:
    """Return the contents of fields that were committed."""
    missing = [field for field, value in zip(fields, values, strict=True) if value is None]
    if missing:
        raise StoreDamaged(
            f"{len(missing)} of {len(fields)} fields are missing in {key}, which were committed; the first is "
            f"{describe_value(key, missing[0])}; {find_remedy(key, missing[0])}, and set the store's maxmemory-policy "
            "to noeviction and appendonly to yes"
        )
    return [unseal(key, field, value) for field, value in zip(fields, values, strict=True) if value is not None]


async def restore_values(context: StoreContext, field: str, contents: Iterable[tuple[str, bytes]]) -> int:
    """Write the values of a committed field again that are missing or damaged; return their number.

    Parameters
    ----------
    context
        The client and the scripts.
    field
        Name of the field.
    contents
        Key and content of each of its values.
    """
    n_restored = 0
    for key, content in contents:
        with translate_errors():
            (stored,) = to_bytes_list([await context.redis.hget(key, field)])
            if stored is None or not is_intact(key, field, stored):
                value = seal(key, field, content)
                await context.scripts.run("replace_field", [key], [field, stored or b"", value])
                logger.warning("%s was damaged or missing, and has been restored", describe_value(key, field))
                n_restored += 1
    return n_restored


def _compute(key: str, field: str, content: bytes | memoryview) -> bytes:
    """Return the checksum of a content in its place."""
    return xxh3_64_digest(content, seed=xxh3_64_intdigest(f"{name_in_run(key)}/{field}".encode()))
