"""What is counted for Prometheus. Run ids are never labels: their number has no bound."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Telemetry:
    """The service's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mild_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "mild_http_request_seconds", "Time to answer a request.", ["method", "route"], registry=self.registry
        )
        self.received_bytes = Counter(
            "mild_http_received_bytes", "Bytes of requests' bodies.", ["route"], registry=self.registry
        )
        self.sent_bytes = Counter(
            "mild_http_sent_bytes", "Bytes of answers' bodies.", ["route"], registry=self.registry
        )
        self.phase_seconds = Histogram(
            "mild_phase_seconds",
            "Time of the parts of requests; `store` is one step in the store, with all its round trips.",
            ["phase"],
            registry=self.registry,
        )
        self.problems = Counter("mild_problems", "Requests refused, by problem code.", ["code"], registry=self.registry)
        self.epochs = Counter("mild_epochs", "Epochs put, by outcome.", ["outcome"], registry=self.registry)
        self.shards = Counter("mild_shards", "Shards of epochs put, by outcome.", ["outcome"], registry=self.registry)
        self.epoch_bytes = Counter("mild_epoch_bytes", "Bytes of epoch bodies taken.", registry=self.registry)
        self.log_records = Counter("mild_log_records", "Records of prediction logs taken.", registry=self.registry)
        self.selections = Counter(
            "mild_selections", "Selections asked for, by where they came from.", ["source"], registry=self.registry
        )
        self.truths = Counter(
            "mild_truths", "Labels and audits put, by kind and outcome.", ["kind", "outcome"], registry=self.registry
        )
        self.compute_seconds = Histogram("mild_compute_seconds", "Time to compute a selection.", registry=self.registry)
        self.waiting = Gauge("mild_waiting", "Work that waits for its turn, by kind.", ["kind"], registry=self.registry)
        self.store_used = Gauge("mild_store_used_bytes", "Memory that the store uses.", registry=self.registry)
        self.store_limit = Gauge(
            "mild_store_limit_bytes",
            "Memory that the store may use; 0 where nothing limits it.",
            registry=self.registry,
        )
        self.streams = Gauge("mild_event_streams", "Event streams that are open.", registry=self.registry)
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram, Counter, Counter]] = {}
        self.swept = Counter("mild_runs_swept", "Runs deleted because they had expired.", registry=self.registry)

    def answered(self, method: str, route: str, status: int, seconds: float, n_in: int, n_out: int) -> None:
        """Count a request. What counts it is looked up once per method, route and status: there are few."""
        counts = self._answered.get((method, route, status))
        if counts is None:
            counts = self._answered[method, route, status] = (
                self.requests.labels(method, route, status),
                self.seconds.labels(method, route),
                self.received_bytes.labels(route),
                self.sent_bytes.labels(route),
            )
        requests, durations, received, sent = counts
        requests.inc()
        durations.observe(seconds)
        received.inc(n_in)
        sent.inc(n_out)
