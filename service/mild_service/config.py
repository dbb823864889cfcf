"""All settings of the service; the only module that reads the environment."""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from mild_service.errors import LimitExceeded

_SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://.*")


NICENESS = 5
"""By how much processes that compute and that read logs leave the processor to those that serve requests (nice)."""


class Settings(BaseSettings):
    """Settings of the service; each is read from the environment variable ``MILD_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="MILD_", env_ignore_empty=True, frozen=True, extra="ignore")

    store_url: str | None = Field(
        None,
        repr=False,
        description="Redis or Valkey to keep runs in: redis://, rediss:// (TLS), unix://, redis+cluster:// or "
        "rediss+cluster://, such as redis://user:password@localhost:6379/0; docs/operations.md has their options.",
    )
    store_namespace: str = Field(
        "mild", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Prefix of every key, so that services can share a store."
    )
    store_connections: int = Field(
        64, ge=1, le=10_000, description="Most connections to the store at once; to each node of a cluster."
    )
    store_sharded: bool = Field(
        False,
        description="The store keeps keys on several servers behind a proxy; large bitmaps then take more steps to "
        "write. A cluster's address says so by itself.",
    )
    store_replicas: int = Field(
        0, ge=0, le=16, description="Replicas of the store that must have a write before it is acknowledged."
    )
    store_replica_seconds: float = Field(
        1.0, gt=0, le=60, description="How long a write waits for them; after that it is answered with 503."
    )
    store_timeout: float = Field(10.0, gt=0, le=300, description="Seconds that one store command may take.")
    store_memory: int = Field(
        0,
        ge=0,
        le=2**50,
        description="Bytes that the store may use, where it has no maxmemory of its own; 0: no limit.",
    )
    store_reserve: float = Field(
        0.15, ge=0, lt=1, description="Share of the store's memory that is kept for runs that are open already."
    )
    data_dir: Path = Field(Path("mild-data"), description="Data folder of the embedded store.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    allow_anonymous: bool = Field(False, description="Listen beyond this machine although nobody has to log in.")
    api_keys: SecretStr = Field(
        SecretStr(""), description="Static API keys between commas, each `name:scope:prefix:key` or a bare admin's key."
    )
    auth: Literal["auto", "required", "off"] = Field(
        "auto",
        description="Whether a key is needed: `required`, `off`, or `auto`: once one was made or MILD_API_KEYS is set.",
    )
    key_cache_seconds: float = Field(
        5.0, ge=0, le=5, description="A key that is revoked, or the first to be made, counts after this long at most."
    )
    session_seconds: int = Field(12 * 3600, ge=60, le=30 * 24 * 3600, description="A login ends after this long.")
    metrics_access: Literal["open", "read", "write", "admin"] = Field(
        "admin", description="Scope that `/metrics` asks for where keys are in use; `open` asks for none."
    )
    max_runs_per_key: int = Field(10_000, ge=1, le=10**6, description="Most runs that one key may have at once.")
    rate_per_key: float = Field(
        500.0, ge=0, description="Requests per second and key that each process lets through; 0 counts none."
    )
    rate_burst: int = Field(1000, ge=1, description="Requests that a key may send at once before its rate holds.")
    cors_origins: str = Field(
        "",
        description="Web origins between commas whose pages may call the API with a key, such as https://lab.example.",
    )
    docs: bool = Field(True, description="Serve the interactive documentation at /docs.")
    max_samples: int = Field(2**27, ge=1, le=2**31, description="Most samples of a run.")
    max_epochs: int = Field(4096, ge=1, le=65_535, description="Most epochs of a round.")
    max_rounds: int = Field(256, ge=1, le=10_000, description="Most rounds of a run.")
    max_shards: int = Field(1024, ge=1, le=65_535, description="Most shards of an epoch.")
    max_body_bytes: int = Field(2**25 + 2**20, ge=1024, le=2**31, description="Most bytes of a request's body.")
    max_document_bytes: int = Field(
        2**20, ge=1024, le=2**25, description="Most bytes of a body that does not grow with the run's samples."
    )
    max_json_bytes: int = Field(
        2**23, ge=1024, le=2**28, description="Most bytes of JSON that lists samples; longer ones as bitmap or npy."
    )
    max_log_bytes: int = Field(2**33, ge=1024, le=2**45, description="Most bytes of a prediction log, also inflated.")
    max_log_records: int = Field(2**30, ge=1, le=2**40, description="Most records of a prediction log.")
    max_record_bytes: int = Field(2**20, ge=64, le=2**25, description="Most bytes of one line or JSON record of a log.")
    max_log_cells: int = Field(
        2**28,
        ge=1024,
        le=2**38,
        description="Most samples times epochs of a log; each takes 1 byte of memory, up to 5 with predicted classes.",
    )
    ttl_seconds: int = Field(
        30 * 24 * 3600, ge=60, le=10 * 365 * 24 * 3600, description="A run expires this long after its last write."
    )
    sweep_seconds: float = Field(300.0, ge=0, description="Pause between sweeps of expired runs; 0 never sweeps.")
    max_wait_seconds: float = Field(60.0, ge=0, le=600, description="Longest `wait` of a long-poll.")
    max_events: int = Field(10_000, ge=1, le=1_000_000, description="Events that are kept of a run; older ones go.")
    max_streams: int = Field(1000, ge=1, le=100_000, description="Event streams that a process serves at once.")
    heartbeat_seconds: float = Field(
        15.0, gt=0, le=300, description="An event stream sends a comment after this long without an event."
    )
    stream_seconds: float = Field(
        3600.0, gt=0, description="An event stream ends after this long; the client goes on with Last-Event-ID."
    )
    cache_seconds: int = Field(3600, ge=1, le=30 * 24 * 3600, description="How long a computed selection is kept.")
    id_cache_bytes: int = Field(
        2**28, ge=0, le=2**40, description="Memory for the sample ids of the runs that were named by them last."
    )
    table_cache_bytes: int = Field(
        2**28,
        ge=0,
        le=2**40,
        description="Memory for the dashboard's tables of samples, those looked at last; 26 bytes a sample each.",
    )
    memory: int = Field(
        0,
        ge=0,
        le=2**50,
        description="Bytes of memory that the process takes with its workers; 0: three quarters of its container's "
        "limit, else half of the machine's.",
    )
    log_spool_bytes: int = Field(
        0,
        ge=0,
        le=2**50,
        description="Bytes of TMPDIR for logs while they arrive; 0: half of what is free when the service starts.",
    )
    executor: str = Field(
        "processes",
        pattern=r"^(threads|processes|dask(\+tls)?://[^/]+:\d+)$",
        description="What computes selections: `threads` of the service, `processes` of their own, or, for large runs, "
        "a Dask cluster, dask://scheduler:8786.",
    )
    compute_workers: int = Field(
        2, ge=1, le=256, description="Threads or processes that compute selections, and selections at the same time."
    )
    max_waiting: int = Field(
        256,
        ge=0,
        le=100_000,
        description="Requests that may wait for memory, for a selection, or for a log to be read, each by itself.",
    )
    log_readers: int = Field(4, ge=1, le=1000, description="Prediction logs that are read at the same time.")
    log_reader_bytes: int = Field(
        2**29,
        ge=2**27,
        le=2**40,
        description="Most memory of a process that reads an Arrow or Parquet log, in addition to the log itself.",
    )
    request_seconds: float = Field(
        120.0,
        gt=0,
        le=3600,
        description="Longest work on a request since its body's last piece; above the longest wait.",
    )
    body_pause_seconds: float = Field(
        30.0, gt=0, le=3600, description="Longest pause within a body, and longest time that 64 KiB of an answer take."
    )
    min_body_rate: int = Field(
        1024, ge=1, le=2**30, description="Least bytes a second at which a body is to come, a single pause left out."
    )
    head_seconds: float = Field(
        10.0,
        gt=0,
        le=300,
        description="Longest time for a request's headers to come, and for a body to go on after its answer.",
    )
    idle_seconds: int = Field(5, ge=1, le=3600, description="A connection without a request is closed after this long.")
    drain_seconds: float = Field(
        0.0, ge=0, le=300, description="Pause between being not ready any more and closing the port, for balancers."
    )
    shutdown_seconds: int = Field(
        10, ge=1, le=600, description="Requests under way may take this long after the port was closed."
    )
    root_path: str = Field(
        "", pattern=r"^(/[A-Za-z0-9._~-]+)*$", description="Path under which a proxy serves the service, such as /mild."
    )
    trusted_proxies: str = Field(
        "127.0.0.1", description="Addresses or networks of proxies whose X-Forwarded headers count, with commas; * all."
    )
    log_format: Literal["text", "json", "logfmt"] = Field(
        "text", description="How log lines are written: text, json or logfmt."
    )
    log_level: str = Field(
        "info",
        pattern="^(critical|error|warning|info|debug)$",
        description="Least of debug, info, warning, error and critical that is logged.",
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_service_link(cls, values: Any) -> Any:
        """Drop ``MILD_PORT=tcp://ip:port``, which Kubernetes gives every pod beside a Service ``mild``, as Docker does.

        The other variables of such a link (``MILD_SERVICE_HOST``, ``MILD_PORT_80_TCP``) name no setting.
        """
        if isinstance(values, dict) and _SERVICE_LINK.fullmatch(str(values.get("port"))):
            return {name: value for name, value in values.items() if name != "port"}
        return values

    @model_validator(mode="after")
    def _check_timeouts(self) -> Self:
        """Check that a request may take longer than the longest wait, and a command longer than that for replicas."""
        for name, work, wait_name in (
            ("request_seconds", "long-polls of", "max_wait_seconds"),
            ("store_timeout", "writes that wait for replicas for", "store_replica_seconds"),
        ):
            limit, wait = getattr(self, name), getattr(self, wait_name)
            if limit <= wait:
                raise ValueError(
                    f"{name} is {limit:g} and would cut off {work} {wait_name}, {wait:g}; raise the one or lower the "
                    "other"
                )
        return self

    def limits(self) -> dict[str, int | float]:
        """Return all ``max_…`` settings by name, which `GET /version` publishes for clients."""
        return {name: value for name, value in self if name.startswith("max_")}

    def check_position(self, round_: int, epoch: int = 0) -> None:
        """Check that the number of a round, and of an epoch within the round, are within the limits."""
        self.check_limit("round", round_, "max_rounds", 0)
        self.check_limit("epoch", epoch, "max_epochs", 0)

    def check_limit(self, name: str, value: int, setting: str, low: int = 1) -> None:
        """Check that a number is one of as many as a setting allows, from `low` on; error messages call it `name`."""
        high = getattr(self, setting) - 1 + low
        if not low <= value <= high:
            raise LimitExceeded(
                f"{name} is {value}, this service takes {low}..{high}; send a number in that range, "
                f"or have MILD_{setting.upper()} raised"
            )


def build_child_environment(additions: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for a child process.

    They are those of this process, without the settings of the service, which contain secrets, and with `additions`.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MILD_")}
    return {**inherited, **additions}


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
