"""The authenticator: whose key it is, how long that is remembered, and when one is asked for."""

import secrets
from dataclasses import replace

import pytest
from pydantic import SecretStr

from mild_service.api_keys import ApiKey, generate_key, generate_secret, hash_secret
from mild_service.auth import Authenticator
from mild_service.concurrency import LruCache
from mild_service.config import Settings
from mild_service.errors import ConfigurationError, StoreUnavailable
from mild_service.store import Store
from tests.service.conftest import Clock

pytestmark = pytest.mark.anyio


@pytest.fixture
def authenticator(store: Store, settings: Settings, clock: Clock) -> Authenticator:
    return Authenticator(store, settings, clock, clock)


async def made(store: Store, expires_at: float | None = None) -> tuple[str, ApiKey]:
    secret, key = generate_secret(), generate_key("n", "write", "a-", 1.0, expires_at)
    await store.credentials.add(hash_secret(secret), key)
    return secret, key


async def test_a_key_is_known_by_its_secret_alone(store: Store, authenticator: Authenticator) -> None:
    secret, key = await made(store)
    found = await authenticator.find_by_secret(secret)
    assert found is not None
    assert replace(found, used_at=None) == key
    for other in (secret + "x", secret[:-1], "", generate_secret(), "\udcff"):
        assert await authenticator.find_by_secret(other) is None


async def test_a_revoked_key_counts_for_five_seconds_more_at_most(
    store: Store, authenticator: Authenticator, clock: Clock
) -> None:
    secret, key = await made(store)
    assert await authenticator.find_by_secret(secret)
    await store.credentials.revoke(key.key_id)
    clock.now += 5.0
    assert await authenticator.find_by_secret(secret) is None
    assert await authenticator.find_by_secret(secret) is None


async def test_a_verified_key_is_not_looked_up_again_at_once(
    store: Store, authenticator: Authenticator, clock: Clock
) -> None:
    secret, key = await made(store)
    assert await authenticator.find_by_secret(secret)
    await store.credentials.revoke(key.key_id)
    clock.now += 4.9
    assert await authenticator.find_by_secret(secret)


async def test_so_many_keys_are_remembered_and_no_more(
    store: Store, authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator, "_cached_keys", LruCache(2))
    keys = [await made(store) for _ in range(3)]
    for secret, _ in keys:
        assert await authenticator.find_by_secret(secret)
    for _, key in keys:
        await store.credentials.revoke(key.key_id)
    assert [bool(await authenticator.find_by_secret(secret)) for secret, _ in keys] == [False, True, True]


async def test_a_key_expires_to_the_second_though_it_is_remembered(
    store: Store, authenticator: Authenticator, clock: Clock
) -> None:
    secret, _ = await made(store, expires_at=clock.now + 2)
    assert await authenticator.find_by_secret(secret)
    clock.now += 2
    assert await authenticator.find_by_secret(secret) is None


async def test_the_last_use_is_written_down_once_a_minute(
    store: Store, authenticator: Authenticator, clock: Clock
) -> None:
    secret, _ = await made(store)
    first = clock.now
    for step, used in ((0.0, first), (30.0, first), (30.0, first + 60)):
        clock.now += step
        await authenticator.find_by_secret(secret)
        (listed,) = await store.credentials.list_keys()
        assert listed.used_at == used


async def test_only_digests_are_stored(store: Store, authenticator: Authenticator, settings: Settings) -> None:
    from redis import Redis

    secret, _ = await made(store)
    session = await authenticator.begin_session(secret)
    assert settings.store_url is not None
    with Redis.from_url(settings.store_url) as redis:
        names = list(redis.scan_iter(f"{settings.store_namespace}:*"))
        stored = b"".join(name + (redis.dump(name) or b"") for name in names)
    assert len(names) == 2
    assert secret.encode() not in stored
    assert session.encode() not in stored


async def test_a_service_without_keys_is_open_and_closes_for_good_once_one_is_made(
    store: Store, authenticator: Authenticator, settings: Settings, clock: Clock
) -> None:
    assert not await authenticator.requires_key()
    _, key = await made(store)
    clock.now += 5.0
    assert await authenticator.requires_key()
    await store.credentials.revoke(key.key_id)
    clock.now += 5.0
    assert await authenticator.requires_key()
    assert await Authenticator(store, settings).requires_key()  # nor does a restart open it
    assert not await Authenticator(store, settings.model_copy(update={"auth": "off"})).requires_key()


async def test_static_keys_and_the_setting_close_it_from_the_start(store: Store, settings: Settings) -> None:
    static = settings.model_copy(update={"api_keys": SecretStr(f"ci:write:ci-:{'k' * 20}")})
    authenticator = Authenticator(store, static)
    assert await authenticator.requires_key()
    key = await authenticator.find_by_secret("k" * 20)
    assert key is not None
    assert (key.scope, key.prefix) == ("write", "ci-")
    assert await Authenticator(store, settings.model_copy(update={"auth": "required"})).requires_key()
    with pytest.raises(ConfigurationError, match="MILD_AUTH is off"):
        Authenticator(store, static.model_copy(update={"auth": "off"}))


async def test_nobody_gets_in_while_it_cannot_be_told_whether_there_are_keys(settings: Settings) -> None:
    store = Store(settings, f"unix:///tmp/none-{secrets.token_hex(8)}.sock")
    with pytest.raises(StoreUnavailable):
        await Authenticator(store, settings).requires_key()
    await store.aclose()


async def test_a_session_ends_with_its_key_or_by_itself(
    store: Store, authenticator: Authenticator, clock: Clock
) -> None:
    secret, key = await made(store)
    first, second = await authenticator.begin_session(secret), await authenticator.begin_session(secret)
    assert await authenticator.find_by_session(first)
    await authenticator.end_session(first)
    assert await authenticator.find_by_session(first) is None
    assert await authenticator.find_by_session(secret) is None
    assert await authenticator.find_by_session(second)
    await store.credentials.revoke(key.key_id)
    clock.now += 5.0
    assert await authenticator.find_by_session(second) is None
