import re

import pytest

from mild_service.api_keys import SCOPES, ApiKey, generate_key, generate_secret, hash_secret, parse_static_keys
from mild_service.errors import ConfigurationError, InvalidRequest

SECRET = "s3cret-and-long-enough"


def test_a_secret_has_256_random_bits_and_a_start_that_scanners_know() -> None:
    secrets = {generate_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch(r"mild_[A-Za-z0-9_-]{43}", secret) for secret in secrets)  # 43 x 6 bits >= 256


def test_a_scope_includes_those_before_it() -> None:
    allowed = {scope: [other for other in SCOPES if ApiKey("i", "n", scope).allows(other)] for scope in SCOPES}
    assert allowed == {"read": ["read"], "write": ["read", "write"], "admin": ["read", "write", "admin"]}


def test_a_key_counts_until_it_expires_or_is_revoked() -> None:
    key = ApiKey("i", "n", "read", expires_at=100.0)
    assert (key.state(99.9), key.state(100.0)) == ("live", "expired")
    assert ApiKey("i", "n", "read", expires_at=100.0, revoked_at=5.0).state(6.0) == "revoked"
    assert ApiKey("i", "n", "read").state(1e12) == "live"


@pytest.mark.parametrize(
    ("name", "scope", "prefix"),
    [("", "read", ""), ("a b", "read", ""), ("n" * 65, "read", ""), ("n", "all", ""), ("n", "read", "-a"),
     ("n", "read", "*")],
)  # fmt: skip
def test_what_could_be_no_key_is_refused(name: str, scope: str, prefix: str) -> None:
    with pytest.raises(InvalidRequest, match="give"):
        generate_key(name, scope, prefix, 0.0, None)  # type: ignore[arg-type]  # wrong on purpose


def test_static_keys_are_bare_or_say_what_they_may() -> None:
    keys = parse_static_keys(f"{SECRET}, ci:write:ci-:{SECRET}2\nboard:read::{SECRET}3")
    assert set(keys) == {hash_secret(SECRET), hash_secret(SECRET + "2"), hash_secret(SECRET + "3")}
    bare, ci, board = keys.values()
    assert (bare.scope, bare.prefix, bare.name) == ("admin", "", f"static-{hash_secret(SECRET)[:8]}")
    assert (ci.key_id, ci.name, ci.scope, ci.prefix) == ("static-ci", "ci", "write", "ci-")
    assert (board.scope, board.prefix) == ("read", "")
    assert parse_static_keys(" , ") == {}


@pytest.mark.parametrize(
    "text",
    ["short", f"{SECRET}:x", f"ci:all::{SECRET}", f"a b:read::{SECRET}", f"ci:read:*:{SECRET}", f"ci:read::{SECRET}é",
     f"{SECRET},{SECRET}", f"ci:read::{SECRET},ci:write::{SECRET}2", "ci:read::"],
)  # fmt: skip
def test_a_static_key_that_is_none_is_named_by_its_place_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"entry [12] of MILD_API_KEYS") as refused:
        parse_static_keys(text)
    assert SECRET not in str(refused.value)
