"""What operators can watch, in Prometheus text. No label carries a URL, host, hash, account, key or bank."""

import functools
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app.pipeline import Receipt

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True)
class Described:
    """A metric, for the reference."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


class Metrics:
    """The metrics of one process, in a registry of its own.

    What is measured when somebody looks, and not when it happens, ``app.api.gauges`` sets.

    Attributes:
        described: all of them, in the order of the exposition.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.described: list[Described] = []
        self._requests = self._counter("http_requests", "Answered requests.", "route", "status")
        self._request_seconds = self._seconds(
            "http_request_seconds",
            "From a request's first byte to the end of its answer.",
            "route",
        )
        # Looking labels up takes longer than counting; there are few, and they stay.
        self._of_route = functools.cache(lambda route, status: self._requests.labels(route, str(status)))
        self._seconds_of = functools.cache(self._request_seconds.labels)
        self._ingests = self._counter(
            "ingests", "Media that came to a verdict.", "verdict", "disposition", "reason"
        )
        self._bytes = self._counter("ingested_bytes", "Bytes of these media.")
        self._failures = self._counter("ingest_failures", "Media that came to no verdict.", "code")
        self._reports = self._counter(
            "reports_stored", "Matches stored, as a `new` report or `joined` to one.", "how"
        )
        self._dropped_unreported = self._counter(
            "matches_unreported", "Matches dropped by banks that only block."
        )
        self._observed = self._counter(
            "matches_observed", "Media that a bank which only observes matched, whatever the others said."
        )
        self.probing = self._counter("probing_suspected", "Keys that came under suspicion of probing.")
        self.ready = self._gauge("ready", "1 if a match would be caught and stored now.")
        self.generation = self._gauge("index_generation", "Generation of the banks in force.")
        self.queue = self._gauge("reports_queued", "Reports that wait for a custodian.")
        self.queue_age = self._gauge("reports_queued_oldest_seconds", "Age of the oldest of them.")
        self.alarms = self._gauge("alarms", "Alarms that stand.", "kind")
        self.custodians = self._gauge("custodians", "Pinned custodians, whom reports are sealed to.")
        self.held = self._gauge("media_held", "Media in the quarantine.")
        self.reserved = self._gauge("media_reserved_bytes", "What they take of `CORDON_MAX_INFLIGHT_BYTES`.")
        self.controls = self._gauge("control", "1 if the control is in force.", "control")
        self.scanning = self._gauge("media_scanning", "Media that decoders have, or that wait for one.")
        self.decoding = self._gauge(
            "decode_reserved_bytes", "What decoding takes now of `CORDON_MAX_DECODE_BYTES`."
        )
        self.decoders = self._gauge("decoders", "Decoder processes, each of them locked.")
        self.decoders_replaced = self._counter(
            "decoders_replaced",
            "Decoders that were ended: `recycled` after `CORDON_DECODER_MEDIA` media, `outgrew` its memory, "
            "`timed_out`, `crashed`, `misbehaved` (it said what no decoder says: somebody may have taken it "
            "over), `abandoned` with the medium or the gate.",
            "cause",
        )
        self.fork_servers = self._counter(
            "fork_servers_started", "What decoders are forked from; more than one if it died."
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
        self._observed.inc(receipt.observed)
        if receipt.report is not None:
            self._reports.labels("joined" if receipt.report.joined else "new").inc()
        elif receipt.matched_banks:
            self._dropped_unreported.inc()

    def failed(self, code: str) -> None:
        """One medium came to no verdict."""
        self._failures.labels(code).inc()

    def exposition(self) -> bytes:
        """All metrics as Prometheus text."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self.described.append(Described(f"cordon_{name}_total", "counter", labels, text))
        return Counter(f"cordon_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self.described.append(Described(f"cordon_{name}", "gauge", labels, text))
        return Gauge(f"cordon_{name}", text, labels, registry=self.registry)

    def _seconds(self, name: str, text: str, *labels: str) -> Histogram:
        self.described.append(Described(f"cordon_{name}", "histogram", labels, text))
        return Histogram(f"cordon_{name}", text, labels, buckets=_SECONDS, registry=self.registry)
