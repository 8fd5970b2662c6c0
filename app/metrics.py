"""What operators can watch, in Prometheus text. No label carries a URL, host, hash, account, key or bank."""

import functools
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app.pipeline import Receipt

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "cordon_http_requests", "Answered requests.", ["route", "status"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "cordon_http_request_seconds",
            "From a request's first byte to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        # Looking labels up takes longer than counting; there are few, and they stay.
        self._of_route = functools.cache(lambda route, status: self._requests.labels(route, str(status)))
        self._seconds_of = functools.cache(self._request_seconds.labels)
        self._ingests = Counter(
            "cordon_ingests",
            "Media that came to a verdict.",
            ["verdict", "disposition", "reason"],
            registry=self.registry,
        )
        self._bytes = Counter("cordon_ingested_bytes", "Bytes of these media.", registry=self.registry)
        self._failures = Counter(
            "cordon_ingest_failures", "Media that came to no verdict.", ["code"], registry=self.registry
        )
        self._reports = Counter(
            "cordon_reports_stored",
            "Matches stored, as a new report or joined.",
            ["how"],
            registry=self.registry,
        )
        self._dropped_unreported = Counter(
            "cordon_matches_unreported", "Matches dropped by banks that only block.", registry=self.registry
        )

        self.probing = Counter(
            "cordon_probing_suspected", "Keys that came under suspicion of probing.", registry=self.registry
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._of_route(route, status).inc()
        self._seconds_of(route).observe(seconds)

    def concluded(self, receipt: Receipt) -> None:
        """One medium came to a verdict."""
        self._ingests.labels(
            receipt.verdict.value, receipt.disposition.value, receipt.reason.value if receipt.reason else ""
        ).inc()
        self._bytes.inc(receipt.size)
        if receipt.report is not None:
            self._reports.labels("joined" if receipt.report.joined else "new").inc()
        elif receipt.matched_banks:
            self._dropped_unreported.inc()

    def failed(self, code: str) -> None:
        """One medium came to no verdict."""
        self._failures.labels(code).inc()

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A new gauge in this registry."""
        return Gauge(name, text, labels, registry=self.registry)

    def exposition(self) -> bytes:
        """All metrics as Prometheus text."""
        return generate_latest(self.registry)
