"""What /metrics tells, in Prometheus' words. Only inference requests are counted: probes would drown them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The counters of one server."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        info = Gauge("trainyard_model_info", "The model that is served", labels, registry=self._registry)
        info.labels(**labels).set(1)
        self._requests = Counter("trainyard_infer_requests", "Inference requests", ["code"], registry=self._registry)
        self._rows = Counter("trainyard_infer_rows", "Rows predicted", registry=self._registry)
        self._seconds = Histogram(
            "trainyard_infer_seconds",
            "From the last byte of a request to its response",
            buckets=BUCKETS,
            registry=self._registry,
        )

    def count(self, code: int, rows: int, seconds: float) -> None:
        self._requests.labels(str(code)).inc()
        self._rows.inc(rows)
        self._seconds.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)
