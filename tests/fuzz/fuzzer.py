"""Broken requests to every route that writes: none may fail the service, none that is refused may change anything.

Valid bodies of every write route and content type (taken from the service's own OpenAPI), mutated: bits flipped, cut,
doubled, nested, renumbered, wrongly coded, typed, headed and addressed; those of binary formats most often in the bytes
that say where the others lie. A service that asks for a key in a process of its own, and a real store. A digest over
everything that the store holds is taken before and after each request, and the service's memory now and then.
"""

import json
import secrets
from collections import Counter
from dataclasses import dataclass, field

import httpx
import numpy as np
from redis import Redis

from benchmarks.proc import ALLOCATOR, measure_growth, read_resident_kib
from benchmarks.serving import start_service
from benchmarks.wire import Answer, Connection
from tests.fuzz.mutations import Request, mutated
from tests.fuzz.valid_bodies import BITMAP, LOGS, N_SAMPLES, N_SHARDS, NDJSON, Make, bits, makers

RUNS = ("open", "empty", "finished", "members", "logs", "shards")
FRESH = 500
"""Requests after which the runs are made anew: what was mutated and still valid has filled them up."""
LONG = 2**20
"""Bytes of a body that is refused before all of it was sent."""
SAMPLED = 100
"""Requests between two looks at the service's memory."""
_DIGEST = """
local keys, cursor = {}, '0'
repeat
  local found = redis.call('SCAN', cursor, 'MATCH', ARGV[1], 'COUNT', 1000)
  cursor = found[1]
  for _, key in ipairs(found[2]) do
    if not (string.find(key, ':cache:') or string.find(key, ':lock:') or string.find(key, ':used$')) then
      keys[#keys + 1] = key
    end
  end
until cursor == '0'
table.sort(keys)
local parts = {}
for i, key in ipairs(keys) do
  local held = redis.call('TYPE', key).ok
  if held == 'hash' then
    local flat, fields = redis.call('HGETALL', key), {}
    for at = 1, #flat, 2 do fields[#fields + 1] = redis.sha1hex(flat[at]) .. redis.sha1hex(flat[at + 1]) end
    table.sort(fields)
    parts[i] = key .. redis.sha1hex(table.concat(fields))
  else
    parts[i] = key .. redis.sha1hex(redis.call('DUMP', key) or '')
  end
end
return redis.sha1hex(table.concat(parts, ' '))
"""
"""Of every key of a namespace but for what reading leaves behind: runs, sets, commits, bits, truth, ids and events.

A hash's fields are sorted: the store moves them about while it is only read.
"""


@dataclass
class Answers:
    """What the requests have met."""

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    per_route: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    kib: list[int] = field(default_factory=list)
    ended: int = 0
    """Bodies that crashed the process in which each is read; refused, as they should be."""

    def slope(self) -> float:
        """Growth of the memory behind a warm-up, in which every route meets everything that can be wrong."""
        return measure_growth(self.kib)


class Fuzzer:
    """Sends broken requests to one service, and watches its store and its memory."""

    def __init__(self, url: str, key: str, pid: int, redis: Redis, namespace: str, seed: int) -> None:
        self._url = url
        self._authorization = ("Authorization", f"Bearer {key}")
        self._pid = pid
        self._namespace = namespace
        self._digest = redis.register_script(_DIGEST)
        self._rng = np.random.default_rng(seed)
        with httpx.Client(base_url=url, timeout=60) as client:
            self._makers = makers(client.get("/openapi.json").json())

    def run(self, n_requests: int) -> Answers:
        """Send requests, one after another."""
        answers = Answers()
        with Connection(self._url) as connection:
            for number in range(n_requests):
                if number % FRESH == 0:
                    self._make_runs()
                    before = self.digest()
                if number % SAMPLED == 0:
                    answers.kib.append(read_resident_kib(self._pid))
                method, path, media_type, make = self._makers[self._rng.integers(len(self._makers))]
                request = mutated(self._rng, self._valid(method, path, media_type, make))
                try:
                    answer = self._send(connection, request)
                except OSError as error:
                    answers.failures.append(f"the service does not answer any more ({error}), behind {request}"[:1000])
                    return answers
                after = self.digest()
                _note(answers, f"{method} {path}", request, answer, before != after)
                before = after
        return answers

    def digest(self) -> object:
        """Of everything that the service has stored."""
        return self._digest(args=[f"{self._namespace}:*"])

    def _valid(self, method: str, path: str, media_type: str, make: Make) -> Request:
        """A request that most often would succeed."""
        places = {"run_id": RUNS[self._rng.integers(len(RUNS))], "round": "0", "shard": "0"}
        places["epoch"] = str(self._rng.integers(20, 26) if "shards" in path else self._rng.integers(10))
        places["round"] = str(int(places["run_id"] == "finished"))
        query = f"of={N_SHARDS}" if "shards" in path else ""
        headers = (("Content-Type", media_type),)
        return Request(method, path.format(**places), query, headers, make(self._rng))

    def _send(self, connection: Connection, request: Request) -> Answer:
        names = {name for name, _ in request.headers}
        headers = [*request.headers, *([] if "Authorization" in names else [self._authorization])]
        target = f"{request.path}?{request.query}" if request.query else request.path
        target = "".join(f"%{byte:02x}" if byte > 126 else chr(byte) for byte in target.encode())
        # Behind the whole body there is nothing left to cut off: that is a request like others, and has an answer.
        cut_off = request.cut_off if request.cut_off is not None and request.cut_off < len(request.body) else None
        return connection.send(request.method, target, headers, request.body, cut_off)

    def _make_runs(self) -> None:
        """Runs in every state that there is; those that were there are gone."""
        with httpx.Client(base_url=self._url, headers=dict([self._authorization]), timeout=60) as client:
            while runs := client.get("/runs", params={"limit": 500}).raise_for_status().json()["runs"]:
                for run in runs:
                    client.delete(f"/runs/{run['run_id']}").raise_for_status()
            for run_id in RUNS:
                observe = "members" if run_id == "members" else "all"
                opening = {"num_samples": N_SAMPLES, "num_classes": 10, "observe": observe}
                client.put(f"/runs/{run_id}", json=opening).raise_for_status()
            as_bits, as_log = {"Content-Type": BITMAP}, {"Content-Type": NDJSON}
            members = "/runs/members/rounds/0/members"
            client.put(members, content=bits(self._rng), headers=as_bits).raise_for_status()
            for run_id in ("open", "finished", "logs"):
                for epoch in range(6):
                    path = f"/runs/{run_id}/rounds/0/epochs/{epoch}"
                    client.put(path, content=bits(self._rng), headers=as_bits).raise_for_status()
            client.post("/runs/finished/rounds/0/finish").raise_for_status()
            log = LOGS[NDJSON](self._rng)
            client.post("/runs/logs/predictions", content=log, headers=as_log).raise_for_status()
            shard = f"/runs/shards/rounds/0/epochs/20/shards/1?of={N_SHARDS}"
            client.put(shard, content=bits(self._rng, 2), headers=as_bits).raise_for_status()


def _note(answers: Answers, route: str, request: Request, answer: Answer, changed: bool) -> None:
    answers.statuses[answer.status] += 1
    answers.per_route[route] += 1
    shown = f"{route} {answer.status} {request}"[:1000]
    if answer.status >= 400:
        problem = answer.headers.get("content-type", "").startswith("application/problem+json")
        code = json.loads(answer.body)["type"] if problem else answer.body[:60].decode("latin-1")
        answers.codes[f"{answer.status} {code}"] += 1
        answers.ended += b"crashed the process" in answer.body
    # A body that is refused while it is still being sent may take the answer along: the connection is reset.
    unanswered = (
        answer.status == 0
        and (request.cut_off is None or request.cut_off >= len(request.body))
        and len(request.body) < LONG
    )
    if answer.status >= 500 or unanswered:
        answers.failures.append(f"{shown}: {answer.body[:500]!r}")
    if changed and not 200 <= answer.status < 300:
        answers.changes.append(shown)


def fuzz(n_requests: int, seed: int, store_url: str) -> Answers:
    """Start a service, and send it broken requests."""
    key, namespace = secrets.token_urlsafe(32), f"fuzz-{secrets.token_hex(4)}"
    environment = {
        **ALLOCATOR,
        "MILD_API_KEYS": key,
        "MILD_STORE_NAMESPACE": namespace,
        "MILD_RATE_PER_KEY": "0",
        "MILD_SWEEP_SECONDS": "0",
        "MILD_IDLE_SECONDS": "600",  # making the runs anew may take a while, on a machine that is busy
        "MILD_LOG_LEVEL": "critical",
    }
    with start_service(store_url, environment) as service, Redis.from_url(store_url) as redis:
        return Fuzzer(service.url, key, service.process.pid, redis, namespace, seed).run(n_requests)
