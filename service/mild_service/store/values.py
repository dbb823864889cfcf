"""Values of hashes: written with their checksums, committed by scripts, read and verified, and restored.

Every value of a hash with bits, labels, ids, wrong predictions or a cached selection ends with 8 bytes: the XXH3 (64
bits) of its content, with the hash of its place as the seed. The place is the key's name within the run, without the
run's id and uid, and the field. So a value that was moved or swapped does not match either, and an archive can be
imported under another name: between runs, the names of fields differ, since they contain digests or are random.
"""

import logging
from collections.abc import Iterable, Sequence

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from mild_service.errors import RoundFinished, RunNotFound, StoreDamaged
from mild_service.models import Run, run_not_found_error
from mild_service.store import codec
from mild_service.store.context import Argument, StoreContext, to_texts
from mild_service.store.keys import describe_value, name_in_run
from mild_service.store.records import list_named_fields, read_rounds

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
        what, remedy = describe_value(key, field)
        raise StoreDamaged(f"{what} is damaged in the store ({key}); {remedy}")
    return memoryview(value)[:-CHECKSUM_BYTES]


def unseal_all(key: str, fields: Sequence[str], values: Sequence[bytes | None]) -> list[memoryview]:
    """Return the contents of fields that were committed."""
    missing = [field for field, value in zip(fields, values, strict=True) if value is None]
    if missing:
        what, remedy = describe_value(key, missing[0])
        raise StoreDamaged(
            f"{len(missing)} of {len(fields)} fields are missing in {key}, which were committed; the first is "
            f"{what}; {remedy}, and set the store's maxmemory-policy to noeviction and appendonly to yes"
        )
    return [unseal(key, field, value) for field, value in zip(fields, values, strict=True) if value is not None]


async def read_values(context: StoreContext, run: Run, key: str, fields: Sequence[str]) -> list[memoryview]:
    """Read the contents of committed fields; raise `StoreDamaged`, or `RunNotFound` for a deleted run, without one."""
    values = await context.read_fields(key, fields)
    if None in values:
        uid, deleting = await context.read_fields(context.keys.run(run.run_id), ["uid", "deleting"])
        if uid != run.uid.encode() or deleting is not None:
            raise run_not_found_error(run.run_id)
    return unseal_all(key, fields, values)


async def write_values(context: StoreContext, field: str, contents: Iterable[tuple[str, bytes]]) -> None:
    """Write a field of hashes, before the script that commits it; `contents` are the keys and what they get."""
    values = [(key, seal(key, field, content)) for key, content in contents]
    for group in codec.group_by_size([len(value) for _, value in values]):
        commands = [(values[i][0], ("HSET", values[i][0], field, values[i][1])) for i in group]
        await context.writer.send(*commands)


async def commit_values(
    context: StoreContext,
    script: str,
    run: Run,
    names: Sequence[str],
    arguments: Sequence[Argument],
    field: str,
    contents: Sequence[tuple[str, bytes]],
    round_: int | None = None,
    attempt: int | None = None,
) -> list[str]:
    """Write a field of hashes, one per chunk, with the script that commits it, and return the outcome.

    On a single server, the script writes all chunks. If chunks >= 1 may be on other servers, the script is run twice:
    first only to check whether the write is accepted, since a refused write must leave nothing behind; then, after
    these chunks were written, to write chunk 0 and commit.

    Parameters
    ----------
    context
        The client and the scripts.
    script, run, round_, attempt
        As in `StoreContext.change_run`.
    names
        Keys of the script, without those of chunks >= 1.
    arguments
        Arguments of the script, without the field and its values.
    field, contents
        Name of the field; the key of each chunk, and its content.
    """
    first, *others = (seal(key, field, content) for key, content in contents)
    other_keys = [key for key, _ in contents[1:]]
    if not context.sharded:
        keys, arguments = [*names, *other_keys], [*arguments, field, first, *others]
        return await context.change_run(script, run, keys, arguments, round_, attempt)
    if others:
        answer = await context.change_run(script, run, names, arguments, round_, attempt)
        if answer[0] != "clear":
            return answer
        await write_values(context, field, contents[1:])
    try:
        return await context.change_run(script, run, names, [*arguments, field, first], round_, attempt)
    except RunNotFound:
        for key in other_keys:
            await context.call("UNLINK", key)
        raise


async def commit_bitmaps(
    context: StoreContext,
    script: str,
    run: Run,
    round_: int,
    attempt: int | None,
    arguments: Sequence[Argument],
    field: str,
    contents: Sequence[bytes],
    more_names: Sequence[str] = (),
) -> list[str]:
    """Write a field of the chunk hashes of a round, as `commit_values`; `more_names` follow the keys of such scripts.

    If the round is finished by then, chunks that came after its cleanup are deleted.
    """
    keys = context.keys_of(run)
    names = [*keys.list_written(round_), *more_names]
    chunks = list(zip(keys.list_chunks(round_), contents, strict=False))  # no set at all has one empty content
    try:
        return await commit_values(context, script, run, names, arguments, field, chunks, round_, attempt)
    except RoundFinished:
        if context.sharded and keys.n_chunks > 1:
            await collect_garbage(context, run, round_)
        raise


async def restore_bitmaps(context: StoreContext, run: Run, round_: int, field: str, contents: Sequence[bytes]) -> int:
    """Restore a field of the chunk hashes of a round, as `restore_values`."""
    chunks = context.keys_of(run).list_chunks(round_)
    return await restore_values(context, field, zip(chunks, contents, strict=True))


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
        stored = await context.call("HGET", key, field)
        if stored is None or not is_intact(key, field, stored):
            await context.run_script("replace_field", [key], [field, stored or b"", seal(key, field, content)])
            logger.warning("%s was damaged or missing, and has been restored", describe_value(key, field)[0])
            n_restored += 1
    return n_restored


async def collect_garbage(context: StoreContext, run: Run, number: int) -> int:
    """Delete what no record of a finished round refers to, except in chunk 0 of bitmaps; return the number of fields.

    The round must be finished: in an open round, a field is written before the record that refers to the field.
    """
    (round_,) = await read_rounds(context, run, range(number, number + 1))
    assert round_.finished, "only a finished round has garbage"
    keys, named_fields = context.keys_of(run), await list_named_fields(context, run, [round_])
    n_deleted = 0
    for key in (*keys.list_chunks(number)[1:], *keys.list_wrong_predictions(number)):
        if unnamed := set(to_texts(await context.call("HKEYS", key))) - named_fields[key]:
            n_deleted += await context.call("HDEL", key, *unnamed)
    return n_deleted


def _compute(key: str, field: str, content: bytes | memoryview) -> bytes:
    """Return the checksum of a content in its place."""
    return xxh3_64_digest(content, seed=xxh3_64_intdigest(f"{name_in_run(key)}/{field}".encode()))
