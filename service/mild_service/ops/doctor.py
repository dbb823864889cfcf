"""What is wrong with a store, or with how the service is set up, before somebody is woken up by it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from mild_service.auth import Authenticator, is_loopback
from mild_service.config import Settings
from mild_service.store import Store
from mild_service.store.maintenance import OrphanReport
from mild_service.store.servers import ServerStatus

Level = Literal["ok", "warning", "error"]

_OLDEST = (7, 0)
_SKEW_SECONDS = 2.0
_FRAGMENTED = 1.5
_MUCH = 100 * 2**20
"""Bytes below which fragmentation says nothing."""
_GRACE_SECONDS = 30.0
"""What Kubernetes leaves a process by default before it kills it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `where`, `what` was found, and what to do about it (empty where it is well)."""

    level: Level
    where: str
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was looked at."""

    findings: list[Finding]
    repaired: bool

    @property
    def is_well(self) -> bool:
        """Nothing needs a hand."""
        return all(finding.level == "ok" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """In JSON's own types."""
        shown = [{name: getattr(f, name) for name in ("level", "where", "what", "remedy")} for f in self.findings]
        return {"well": self.is_well, "repaired": self.repaired, "findings": shown}


async def examine(store: Store, settings: Settings, repair: bool = False) -> Report:
    """Look at the store's servers, at the keys in it, and at the settings; `repair` removes what nothing refers to."""
    findings: list[Finding] = []
    for facts in await store.servers.read_status():
        findings += [*_server(facts), *_keeping(facts), *_memory(facts, settings)]
    findings += _orphans(await store.cleanup.scan(repair), repair)
    findings += _settings(settings, await Authenticator(store, settings).requires_key())
    return Report(findings, repair)


def _server(facts: ServerStatus) -> Iterator[Finding]:
    version = str(facts.info.get("valkey_version") or facts.info.get("redis_version", "0"))
    told = f"{facts.info.get('server_name', 'redis')} {version}"
    old = tuple(int(part) for part in version.split(".")[:2]) < _OLDEST
    yield Finding("error" if old else "ok", facts.name, told, "use Redis 7.0 or newer, or Valkey" if old else "")
    skewed = abs(facts.clock_skew) > _SKEW_SECONDS
    yield Finding(
        "warning" if skewed else "ok",
        facts.name,
        f"clock is {facts.clock_skew:+.1f} s from this machine's",
        "synchronise the clocks (NTP): runs expire by the service's" if skewed else "",
    )


def _keeping(facts: ServerStatus) -> Iterator[Finding]:
    """Whether what is acknowledged is on disk."""
    if not int(facts.info.get("aof_enabled", 0)):
        yield Finding("error", facts.name, "no append-only file: a restart loses runs", "set `appendonly yes`")
    elif (how := facts.config.get("appendfsync", "always")) != "always":
        yield Finding(
            "warning",
            facts.name,
            f"the append-only file is synced {how}: a crash may lose acknowledged writes",
            "set `appendfsync always`",
        )
    else:
        unseen = "" if "appendfsync" in facts.config else " (how it is synced is not shown: ACL `+config|get`)"
        yield Finding("ok", facts.name, f"append-only file{unseen}")
    for name, what in (
        ("aof_last_write_status", "the last write to the append-only file failed"),
        ("aof_last_bgrewrite_status", "the last rewrite of the append-only file failed"),
        ("rdb_last_bgsave_status", "the last snapshot failed"),
    ):
        if facts.info.get(name, "ok") != "ok":
            yield Finding("error", facts.name, what, "make room on the store's disk, and see its log")


def _memory(facts: ServerStatus, settings: Settings) -> Iterator[Finding]:
    policy = facts.config.get("maxmemory-policy") or str(facts.info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        yield Finding(
            "error", facts.name, f"evicts keys ({policy}): runs lose bits", "set `maxmemory-policy noeviction`"
        )
    memory = facts.memory
    limit = min((n for n in (memory.limit, settings.store_memory) if n), default=None)
    told = f"uses {memory.used / 2**20:.1f} MiB, {int(facts.info.get('used_memory_peak', 0)) / 2**20:.1f} at most"
    if limit is None:
        yield Finding("warning", facts.name, f"{told}, without a limit", "set `maxmemory`, or MILD_STORE_MEMORY")
    else:
        short = memory.used > (1 - settings.store_reserve) * limit
        remedy = "delete runs, or raise the limit: new runs are refused" if short else ""
        yield Finding("warning" if short else "ok", facts.name, f"{told}, of {limit / 2**20:.1f} MiB", remedy)
    fragmentation = float(facts.info.get("mem_fragmentation_ratio", 1))
    if memory.used > _MUCH and fragmentation > _FRAGMENTED:
        yield Finding("warning", facts.name, f"fragmentation is {fragmentation:.2f}", "set `activedefrag yes`")


def _orphans(orphans: OrphanReport, repair: bool) -> Iterator[Finding]:
    counts = (
        (len(orphans.keys), "keys of runs that are gone", "removed"),
        (orphans.fields, "parts of bodies that nobody has finished for an hour", "removed"),
        (len(orphans.unlisted), "runs that no list shows and that would never expire", "listed"),
    )
    for count, what, mended in counts:
        if count and repair:
            yield Finding("ok", "keys", f"{count} {what}: {mended}")
        else:
            yield Finding("warning" if count else "ok", "keys", f"{count} {what}", "say --repair" if count else "")


def _settings(settings: Settings, closed: bool) -> Iterator[Finding]:
    if not closed and not is_loopback(settings.host):
        yield Finding(
            "warning",
            "settings",
            f"listens on {settings.host} without a login",
            "make a key (mild-service keys create), or see to it that nobody else reaches the port",
        )
    ending = settings.drain_seconds + settings.shutdown_seconds
    if ending > _GRACE_SECONDS:
        yield Finding(
            "warning",
            "settings",
            f"takes up to {ending:g} s to end, Kubernetes kills after {_GRACE_SECONDS:g}",
            "raise terminationGracePeriodSeconds (compose: stop_grace_period), or lower MILD_DRAIN_SECONDS",
        )
    if settings.sweep_seconds == 0:
        yield Finding("warning", "settings", "expired runs are never swept", "set MILD_SWEEP_SECONDS")
