"""Metrics for Prometheus, with the names of luno/reflex. Requires prometheus-client (extra ``prometheus``).

The metrics are described in docs/metrics.md.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import anyio

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "metrics need prometheus-client: pip install 'reflex-aio[prometheus]'", name=exc.name
    ) from exc

from reflex_aio.checks import check_seconds
from reflex_aio.errors import RemoteError, is_expected
from reflex_aio.event import Event
from reflex_aio.hooks import Hooks
from reflex_aio.spec import Spec

__all__ = ["PrometheusHooks"]

logger = logging.getLogger(__name__)

Mode: TypeAlias = Literal["livemax", "mostrecent", "sum"]

_AGES = (0.1, 0.25, 0.5, *(m * 10**e for e in range(5) for m in (1, 2.5, 5)), 100_000)
_LATENCIES = (0.001, 0.01, 0.1, 1, 2, 5, 10, 30, 60, 120, 300)
_LOADING = (0.001, 0.01, 0.1, 1, 10, 60)
_DECODING = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1, 10)

# The time limit for the measurement of one consumer's lag, in seconds.
_MEASURE_TIMEOUT = 30.0


class PrometheusHooks(Hooks):
    """Records metrics. Create one for each registry, and pass it as ``hooks=`` or install it.

    In prometheus-client's multiprocess mode, a gauge has the value of the process that set it last, and only
    :meth:`watch` keeps ``reflex_consumer_active`` up to date.

    :param registry: the registry of the metrics; by default prometheus-client's own
    :param lag_alert_gauges: gauges of your own by consumer name, set in place of ``reflex_consumer_lag_alert``
    :param clock: returns the time, in seconds since 1970
    :raises ValueError: if the registry already contains metrics of these names
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        lag_alert_gauges: Mapping[str, Gauge] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        registry = REGISTRY if registry is None else registry
        self._clock = clock
        self._own_alerts = dict(lag_alert_gauges or {})
        self._consumers: dict[str, _ConsumerMetrics] = {}
        self._open_gaps: dict[str, int] = {}
        # Registered first, and so collected first: the value of an activity gauge depends on the time of collection.
        refresher = _Refresher(self.refresh)
        registry.register(refresher)
        try:
            self._metrics = _Metrics(registry)
        except ValueError:
            registry.unregister(refresher)
            raise

    # Consumers.

    def consumer_started(self, consumer: str, *, lag_alert: float | None, activity_ttl: float | None) -> None:
        metrics = self._consumer(consumer)
        metrics.lag_alert, metrics.activity_ttl = lag_alert, activity_ttl
        metrics.record_activity(self._clock())
        metrics.refresh(self._clock())

    def consumer_restarting(self, consumer: str, error: Exception, *, expected: bool, delay: float) -> None:
        self._metrics.restarts.labels(consumer).inc()

    def event_received(self, consumer: str, event: Event) -> None:
        metrics, now = self._consumer(consumer), self._clock()
        metrics.record_activity(now)
        age = now - event.timestamp_us / 1_000_000
        metrics.age.observe(age)
        metrics.set_lag(age)

    def event_skipped(self, consumer: str, event: Event) -> None:
        metrics = self._consumer(consumer)
        metrics.record_activity(self._clock())
        metrics.skipped.inc()

    def event_handled(self, consumer: str, event: Event, seconds: float) -> None:
        self._consumer(consumer).latency.observe(seconds)

    def event_failed(self, consumer: str, event: Event, error: Exception, seconds: float) -> None:
        metrics = self._consumer(consumer)
        metrics.latency.observe(seconds)
        if not is_expected(error):
            metrics.errors.inc()

    def event_dead_lettered(self, consumer: str, event: Event, error: BaseException) -> None:
        self._consumer(consumer).dead_lettered.inc()

    # Tables.

    def cursor_set(self, table: str) -> None:
        self._metrics.cursors_set.labels(table).inc()

    def page_loaded(self, table: str, rows: int, seconds: float) -> None:
        self._metrics.polls.labels(table).inc()
        self._metrics.loading.labels(table).observe(seconds)
        if table not in self._open_gaps:
            self._open_gaps[table] = 0
            self._metrics.gap_listening.labels(table).set(1)
            self._metrics.blocking_gap.labels(table).set(0)

    def page_decoded(self, table: str, events: int, seconds: float) -> None:
        self._metrics.decoded.labels(table).inc(events)
        self._metrics.decoding.labels(table).observe(seconds)

    def page_read(self, table: str, *, shared: bool) -> None:
        (self._metrics.cache_hits if shared else self._metrics.cache_misses).labels(table).inc()

    def gap_detected(self, table: str, after: int, before: int) -> None:
        self._metrics.gaps_detected.labels(table).inc()
        self._count_gaps(table, +1)

    def gap_resolved(self, table: str, after: int, seconds: float) -> None:
        self._count_gaps(table, -1)

    def gap_abandoned(self, table: str, after: int) -> None:
        self._count_gaps(table, -1)

    def gap_filled(self, table: str, noops: int) -> None:
        self._metrics.gaps_filled.labels(table).inc(noops)

    def _count_gaps(self, table: str, change: int) -> None:
        # Several streams may wait at gaps of the same table.
        self._open_gaps[table] = open_gaps = self._open_gaps.get(table, 0) + change
        self._metrics.blocking_gap.labels(table).set(int(open_gaps > 0))

    # Wake-ups.

    def listener_lost(self, error: BaseException, delay: float) -> None:
        self._metrics.listener_lost.inc()

    def listener_silent(self) -> None:
        self._metrics.listener_silent.inc()

    def notify_failed(self, error: BaseException) -> None:
        self._metrics.notify_failed.inc()

    # Values that have to be polled.

    def refresh(self) -> None:
        """Update the gauges that depend on the time since the last activity. Called by each collection."""
        now = self._clock()
        for metrics in list(self._consumers.values()):
            metrics.refresh(now)

    async def watch(self, *specs: Spec, period: float = 15.0) -> None:
        """Measure the lag of the consumers of ``specs`` periodically, whether they run or not, until cancelled.

        ``reflex_consumer_lag_seconds`` is then the age of the oldest event after the consumer's stored cursor; 0 at the
        head. If a measurement fails, the error is logged, and the next one tries again. Specs that start at the head
        are left out, as their cursors have no meaning.

        :param period: the time between two measurements, in seconds
        :raises ValueError: if ``period`` is out of its range
        """
        check_seconds("period", period)
        while True:
            await self.measure(*specs)
            await anyio.sleep(period)

    async def measure(self, *specs: Spec) -> None:
        """Measure the lag of the consumers of ``specs`` once. See :meth:`watch`."""
        self.refresh()
        for spec in specs:
            if spec.options.from_head:
                continue
            name = spec.consumer.name
            try:
                with anyio.fail_after(_MEASURE_TIMEOUT):
                    lag = await _measure_lag(spec, self._clock)
            except Exception:
                logger.warning(
                    "consumer %s: the lag could not be measured",
                    name,
                    exc_info=True,
                    extra={"consumer": name},
                )
                continue
            metrics = self._consumer(name)
            metrics.lag_alert = spec.consumer.lag_alert
            metrics.set_lag(lag)

    def _consumer(self, name: str) -> "_ConsumerMetrics":
        metrics = self._consumers.get(name)
        if metrics is None:
            metrics = _ConsumerMetrics(self._metrics, name, self._own_alerts.get(name))
            self._consumers[name] = metrics
        return metrics


async def _measure_lag(spec: Spec, clock: Callable[[], float]) -> float:
    """Return the age of the oldest event after the consumer's cursor, in seconds."""
    cursor = await spec.store.get(spec.consumer.name)
    try:
        if cursor == await spec.source.head():
            return 0.0
    except RemoteError as exc:
        if exc.code != "UNIMPLEMENTED":
            raise
    async with spec.source.stream(cursor, to_head=True) as stream:
        async for event in stream:
            return max(0.0, clock() - event.timestamp_us / 1_000_000)
    return 0.0


class _Metrics:
    """The metrics of all consumers and tables."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"reflex_{name}", text, labels, registry=registry)

        def count(name: str, text: str) -> Gauge:
            # The name of a Counter would end in _total, unlike that of the metric of luno/reflex.
            return gauge(name, text, "consumer_name", mode="sum")

        def gauge(name: str, text: str, label: str, *, mode: Mode) -> Gauge:
            return Gauge(f"reflex_{name}", text, [label], registry=registry, multiprocess_mode=mode)

        def histogram(name: str, text: str, label: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"reflex_{name}", text, [label], registry=registry, buckets=buckets)

        self.lag = gauge(
            "consumer_lag_seconds",
            "Age of the event that the consumer received last, in seconds",
            "consumer_name",
            mode="mostrecent",
        )
        self.lag_alert = gauge(
            "consumer_lag_alert", "Whether the lag exceeds its limit", "consumer_name", mode="mostrecent"
        )
        # livemax: after a consumer has moved to another process, the old process soon reports it as inactive.
        self.active = gauge(
            "consumer_active",
            "Whether the consumer has received an event within its activity TTL",
            "consumer_name",
            mode="livemax",
        )
        self.age = histogram(
            "consumer_event_age_seconds", "Age of events when they are received", "consumer_name", _AGES
        )
        self.latency = histogram(
            "consumer_latency_seconds", "Duration of the handler for an event", "consumer_name", _LATENCIES
        )
        self.errors = count("consumer_error_count", "Errors of handlers and filters")
        self.skipped = count("consumer_skipped_events_count", "Events skipped by the filters")
        self.dead_lettered = count("consumer_dead_lettered_events_count", "Events recorded as dead letters")
        self.restarts = counter("consumer_restarts", "Runs that ended with an error", "consumer_name")

        self.polls = counter("events_table_poll", "Queries for events", "table")
        self.blocking_gap = gauge(
            "events_table_blocking_gap", "Whether a stream waits at a gap", "table", mode="livemax"
        )
        self.gaps_detected = counter("events_table_gap_detected", "Gaps detected by streams", "table")
        self.gaps_filled = counter("events_table_gap_filled", "Noops inserted for missing ids", "table")
        self.gap_listening = gauge(
            "events_table_gap_listening",
            "Whether streams resolve gaps in this process",
            "table",
            mode="livemax",
        )
        self.cache_hits = counter(
            "events_table_rcache_hits", "Pages delivered to streams without a query of their own", "table"
        )
        self.cache_misses = counter(
            "events_table_rcache_misses", "Pages loaded by streams for themselves", "table"
        )
        self.loading = histogram(
            "events_table_loading_duration_seconds", "Duration of queries for events", "table", _LOADING
        )
        self.decoding = histogram(
            "events_table_deserialization_duration_seconds",
            "Duration of the decoding of a page's rows into events",
            "table",
            _DECODING,
        )
        self.decoded = counter("events_table_events_deserialized", "Events decoded from rows", "table")
        self.cursors_set = counter("cursors_table_set", "Cursors written", "table")

        self.listener_lost = counter("listener_lost", "Losses of the connection that listens for wake-ups")
        self.listener_silent = counter("listener_silent", "Times that LISTEN was found to receive nothing")
        self.notify_failed = counter("notify_failed", "Wake-ups that could not be sent to other processes")


class _ConsumerMetrics:
    """The metrics of one consumer, and the state that its gauges depend on."""

    def __init__(self, metrics: _Metrics, name: str, lag_alert_gauge: Gauge | None) -> None:
        self.lag_alert: float | None = None
        self.activity_ttl: float | None = None
        self._last_activity = 0.0
        self._name = name
        self._metrics = metrics
        self._alert = metrics.lag_alert.labels(name) if lag_alert_gauge is None else lag_alert_gauge
        # Looked up once: a call of labels() for each event would cost more than the metric itself.
        self._lag = metrics.lag.labels(name)
        self.age = metrics.age.labels(name)
        self.latency = metrics.latency.labels(name)
        self.errors = metrics.errors.labels(name)
        self.skipped = metrics.skipped.labels(name)
        self.dead_lettered = metrics.dead_lettered.labels(name)

    def record_activity(self, now: float) -> None:
        """Record that the consumer is active."""
        self._last_activity = now

    def set_lag(self, seconds: float) -> None:
        """Set the lag, and whether it exceeds its limit."""
        self._lag.set(seconds)
        self._alert.set(int(self.lag_alert is not None and seconds > self.lag_alert))

    def refresh(self, now: float) -> None:
        """Update the gauge of activity, which depends on the time."""
        if self.activity_ttl is not None:
            active = now - self._last_activity < self.activity_ttl
            self._metrics.active.labels(self._name).set(int(active))


class _Refresher(Collector):
    """A collector without metrics, whose collection precedes that of the other metrics and updates them."""

    def __init__(self, refresh: Callable[[], None]) -> None:
        self._refresh = refresh

    def collect(self) -> Iterable[Metric]:
        self._refresh()
        return ()
