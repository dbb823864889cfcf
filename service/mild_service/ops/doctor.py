"""Checks of the store and of the settings, for ``mild-service doctor``."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mild_service.auth import Authenticator
from mild_service.config import Settings, is_loopback
from mild_service.store import Store
from mild_service.store.maintenance import OrphanReport
from mild_service.store.servers import ServerStatus

Level = Literal["ok", "warning", "error"]

_OLDEST_VERSION = (7, 0)
_MAX_SKEW_SECONDS = 2.0
_MAX_FRAGMENTATION = 1.5
_MIN_FRAGMENTED_BYTES = 100 * 2**20
"""Used memory below which the fragmentation ratio is not meaningful."""
_GRACE_SECONDS = 30.0
"""Time that Kubernetes gives a process to stop before it kills it, by default."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes
    ----------
    level
        ``ok``, or how serious the problem is.
    where
        The server, or the part of the service, that was checked.
    what
        What the check has found.
    remedy
        What to do; empty if all is well.
    """

    level: Level
    where: str
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all checks."""

    findings: list[Finding]
    repaired: bool

    @property
    def is_well(self) -> bool:
        """Whether all checks are ok."""
        return all(finding.level == "ok" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dict of JSON's types."""
        return {"well": self.is_well, "repaired": self.repaired, "findings": [asdict(each) for each in self.findings]}


async def examine(store: Store, settings: Settings, repair: bool = False, bits: bool = False) -> Report:
    """Check the store's servers, its keys, and the settings.

    Parameters
    ----------
    store
        The store.
    settings
        Settings of the service.
    repair
        Whether to remove keys that nothing refers to, and to list runs that no list contains.
    bits
        Whether to read all bits, labels and ids, and compare them with their checksums.
    """
    findings: list[Finding] = []
    for status in await store.servers.read_status():
        findings += [*_check_version_and_clock(status), *_check_persistence(status), *_check_memory(status, settings)]
    findings += _check_orphans(await store.cleanup.scan(repair), repair)
    if bits:
        damages = [
            Finding("error", f"run {damage.run_id}", damage.what, damage.remedy)
            async for damage in store.verifier.verify()
        ]
        findings += damages or [Finding("ok", "bits", "all bits, labels and ids match their checksums")]
    findings += _check_settings(settings, await Authenticator(store, settings).requires_key())
    return Report(findings, repair)


def _judge(level: Level, is_wrong: bool, where: str, what: str, remedy: str) -> Finding:
    """Return a finding of this level, with a remedy, if something is wrong; one that is ok otherwise."""
    return Finding(level, where, what, remedy) if is_wrong else Finding("ok", where, what)


def _check_version_and_clock(status: ServerStatus) -> Iterator[Finding]:
    version = str(status.info.get("valkey_version") or status.info.get("redis_version", "0"))
    version_text = f"{status.info.get('server_name', 'redis')} {version}"
    is_old = tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_VERSION
    yield _judge("error", is_old, status.name, version_text, "use Redis 7.0 or newer, or Valkey")
    clock = f"clock is {status.clock_skew:+.1f} s from this machine's"
    remedy = "synchronise the clocks (NTP): runs expire by the store's, API keys by this machine's"
    yield _judge("warning", abs(status.clock_skew) > _MAX_SKEW_SECONDS, status.name, clock, remedy)


def _check_persistence(status: ServerStatus) -> Iterator[Finding]:
    """Check whether the server writes acknowledged changes to disk."""
    if not int(status.info.get("aof_enabled", 0)):
        yield Finding("error", status.name, "no append-only file: a restart loses runs", "set `appendonly yes`")
    elif (how := status.config.get("appendfsync", "always")) != "always":
        yield Finding(
            "warning",
            status.name,
            f"the append-only file is synced {how}: a crash may lose acknowledged writes",
            "set `appendfsync always`",
        )
    else:
        hint = "" if "appendfsync" in status.config else " (how it is synced is not shown: ACL `+config|get`)"
        yield Finding("ok", status.name, f"append-only file{hint}")
    for name, what in (
        ("aof_last_write_status", "the last write to the append-only file failed"),
        ("aof_last_bgrewrite_status", "the last rewrite of the append-only file failed"),
        ("rdb_last_bgsave_status", "the last snapshot failed"),
    ):
        if status.info.get(name, "ok") != "ok":
            yield Finding("error", status.name, what, "make room on the store's disk, and see its log")


def _check_memory(status: ServerStatus, settings: Settings) -> Iterator[Finding]:
    policy = status.config.get("maxmemory-policy") or str(status.info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        yield Finding(
            "error", status.name, f"evicts keys ({policy}): runs lose bits", "set `maxmemory-policy noeviction`"
        )
    memory = status.memory
    limit = min((n for n in (memory.limit, settings.store_memory) if n), default=None)
    usage = f"uses {memory.used / 2**20:.1f} MiB, {int(status.info.get('used_memory_peak', 0)) / 2**20:.1f} at most"
    if limit is None:
        yield Finding("warning", status.name, f"{usage}, without a limit", "set `maxmemory`, or MILD_STORE_MEMORY")
    else:
        is_short, usage = memory.used > (1 - settings.store_reserve) * limit, f"{usage}, of {limit / 2**20:.1f} MiB"
        remedy = "delete runs, or raise the limit: new runs are refused"
        yield _judge("warning", is_short, status.name, usage, remedy)
    fragmentation = float(status.info.get("mem_fragmentation_ratio", 1))
    if memory.used > _MIN_FRAGMENTED_BYTES and fragmentation > _MAX_FRAGMENTATION:
        yield Finding("warning", status.name, f"fragmentation is {fragmentation:.2f}", "set `activedefrag yes`")


def _check_orphans(orphans: OrphanReport, repair: bool) -> Iterator[Finding]:
    counts = (
        (len(orphans.keys), "keys of runs that are gone", "removed"),
        (orphans.fields, "parts of bodies that were not completed within an hour", "removed"),
        (len(orphans.unlisted), "runs that no list contains and that would never expire", "listed"),
    )
    for count, what, repaired in counts:
        if count and repair:
            yield Finding("ok", "keys", f"{count} {what}: {repaired}")
        else:
            yield _judge("warning", count > 0, "keys", f"{count} {what}", "say --repair")


def _check_settings(settings: Settings, requires_key: bool) -> Iterator[Finding]:
    if not requires_key and not is_loopback(settings.host):
        yield Finding(
            "warning",
            "settings",
            f"listens on {settings.host} without a login",
            "make a key (mild-service keys create), or make sure that no one else can reach the port",
        )
    stop_seconds = settings.drain_seconds + settings.shutdown_seconds
    if stop_seconds > _GRACE_SECONDS:
        yield Finding(
            "warning",
            "settings",
            f"takes up to {stop_seconds:g} s to stop, Kubernetes kills after {_GRACE_SECONDS:g}",
            "raise terminationGracePeriodSeconds (compose: stop_grace_period), or lower MILD_DRAIN_SECONDS",
        )
    if settings.sweep_seconds == 0:
        yield Finding("warning", "settings", "expired runs are never swept", "set MILD_SWEEP_SECONDS")
