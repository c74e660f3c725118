"""Metrics: their values in one process and in several, and their documentation."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from reflex_aio import Consumer, Event, RemoteError, Spec, StreamStopped, run
from reflex_aio.ext.prometheus import PrometheusHooks
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.sql import CursorsTable, ErrorsTable, EventsTable
from tests.docs.documents import CHECKOUT
from tests.fix_databases import Connect
from tests.waiting import deadline, eventually

# Those of luno/reflex, by their labels.
CONSUMER_METRICS = {
    "reflex_consumer_lag_seconds",
    "reflex_consumer_event_age_seconds",
    "reflex_consumer_lag_alert",
    "reflex_consumer_active",
    "reflex_consumer_latency_seconds",
    "reflex_consumer_error_count",
    "reflex_consumer_skipped_events_count",
    "reflex_consumer_dead_lettered_events_count",
}
TABLE_METRICS = {
    "reflex_events_table_poll_total",
    "reflex_events_table_blocking_gap",
    "reflex_events_table_gap_detected_total",
    "reflex_events_table_gap_filled_total",
    "reflex_events_table_gap_listening",
    "reflex_events_table_rcache_hits_total",
    "reflex_events_table_rcache_misses_total",
    "reflex_events_table_loading_duration_seconds",
    "reflex_events_table_deserialization_duration_seconds",
    "reflex_events_table_events_deserialized_total",
    "reflex_cursors_table_set_total",
}
OUR_METRICS = {
    "reflex_consumer_restarts_total",
    "reflex_listener_lost_total",
    "reflex_listener_silent_total",
    "reflex_notify_failed_total",
}


class Now:
    """A clock that a test sets."""

    def __init__(self, seconds: float = 1_000_000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


class Metrics:
    """Hooks with a registry and a clock of their own."""

    def __init__(self, **options: Any) -> None:
        self.registry = CollectorRegistry()
        self.now = Now()
        self.hooks = PrometheusHooks(self.registry, clock=self.now, **options)

    def consumer(self, name: str, **labels: str) -> float | None:
        labels = {"consumer_name": "c", **labels}
        return self.registry.get_sample_value(f"reflex_consumer_{name}", labels)

    def table(self, name: str, table: str = "user_events", **labels: str) -> float | None:
        return self.registry.get_sample_value(f"reflex_{name}", {"table": table, **labels})

    def event(self, age: float = 0.0, **values: Any) -> Event:
        return Event("1", 1, "1", round((self.now() - age) * 1_000_000))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def touch_everything(hooks: PrometheusHooks) -> None:
    event, error = Event("1", 1, "1", 0), ValueError()
    hooks.consumer_started("c", lag_alert=1.0, activity_ttl=1.0)
    hooks.event_received("c", event)
    hooks.event_skipped("c", event)
    hooks.event_handled("c", event, 0.1)
    hooks.event_failed("c", event, error, 0.1)
    hooks.event_dead_lettered("c", event, error)
    hooks.consumer_restarting("c", error, expected=False, delay=1.0)
    hooks.consumer_stopped("c", error)
    hooks.cursor_set("cursors")
    hooks.page_loaded("t", 1, 0.1)
    hooks.page_decoded("t", 1, 0.1)
    for shared in (False, True):
        hooks.page_read("t", shared=shared)
    hooks.gap_detected("t", 1, 3)
    hooks.gap_resolved("t", 1, 0.1)
    hooks.gap_filled("t", 1)


# Names.


def test_the_names_and_labels_are_those_of_luno_reflex(metrics: Metrics) -> None:
    touch_everything(metrics.hooks)
    samples = [sample for metric in metrics.registry.collect() for sample in metric.samples]
    ours = {
        s.name: set(s.labels) - {"le"}
        for s in samples
        if not s.name.endswith(("_created", "_sum", "_bucket"))
    }
    # A histogram's name is that of its count, without the suffix.
    histograms = {s.name.removesuffix("_bucket") for s in samples if s.name.endswith("_bucket")}
    named = {
        name.removesuffix("_count") if name.removesuffix("_count") in histograms else name for name in ours
    }
    assert named == CONSUMER_METRICS | TABLE_METRICS | OUR_METRICS
    labels = {tuple(names) for name, names in ours.items() if name in CONSUMER_METRICS}
    assert labels == {("consumer_name",)}
    labels = {tuple(names) for name, names in ours.items() if name in TABLE_METRICS}
    assert labels == {("table",)}


def test_the_buckets_are_those_of_luno_reflex(metrics: Metrics) -> None:
    touch_everything(metrics.hooks)
    buckets: dict[str, list[str]] = {}
    for metric in metrics.registry.collect():
        for sample in metric.samples:
            if sample.name.endswith("_bucket"):
                buckets.setdefault(metric.name, []).append(sample.labels["le"])
    assert len(buckets["reflex_consumer_event_age_seconds"]) == 20
    assert buckets["reflex_consumer_event_age_seconds"][-2:] == ["100000.0", "+Inf"]
    assert buckets["reflex_consumer_latency_seconds"][0] == "0.001"
    assert buckets["reflex_events_table_loading_duration_seconds"][-2:] == ["60.0", "+Inf"]
    assert buckets["reflex_events_table_deserialization_duration_seconds"][0] == "1e-05"


def test_a_registry_accepts_one_set_of_metrics(metrics: Metrics) -> None:
    before = generate_latest(metrics.registry)
    with pytest.raises(ValueError, match="Duplicated"):
        PrometheusHooks(metrics.registry)
    assert generate_latest(metrics.registry) == before


# Consumers.


def test_lag_and_age_are_those_of_the_received_event(metrics: Metrics) -> None:
    metrics.hooks.event_received("c", metrics.event(age=40.0))
    metrics.hooks.event_received("c", metrics.event(age=3.0))
    assert metrics.consumer("lag_seconds") == 3.0
    assert metrics.consumer("event_age_seconds_sum") == 43.0
    assert metrics.consumer("event_age_seconds_bucket", le="5.0") == 1


@pytest.mark.parametrize(
    ("limit", "age", "alert"),
    [(30.0, 31.0, 1), (30.0, 29.0, 0), (None, 1e9, 0)],
    ids=["late", "early", "off"],
)
def test_the_alert_uses_the_limit_of_the_consumer(
    metrics: Metrics, limit: float | None, age: float, alert: int
) -> None:
    metrics.hooks.consumer_started("c", lag_alert=limit, activity_ttl=None)
    metrics.hooks.event_received("c", metrics.event(age=age))
    assert metrics.consumer("lag_alert") == alert


def test_the_lag_stays_when_the_consumer_stops(metrics: Metrics) -> None:
    metrics.hooks.event_received("c", metrics.event(age=40.0))
    metrics.hooks.consumer_stopped("c", StreamStopped())
    assert metrics.consumer("lag_seconds") == 40.0


def test_an_alert_may_be_set_on_a_custom_gauge() -> None:
    registry = CollectorRegistry()
    own = Gauge("late", "Of whom to call", ["team"], registry=registry)
    metrics = Metrics(lag_alert_gauges={"c": own.labels("payments")})
    metrics.hooks.consumer_started("c", lag_alert=30.0, activity_ttl=None)
    metrics.hooks.event_received("c", metrics.event(age=31.0))
    assert registry.get_sample_value("late", {"team": "payments"}) == 1
    assert metrics.consumer("lag_alert") is None


def test_a_consumer_is_active_within_its_ttl(metrics: Metrics) -> None:
    metrics.hooks.consumer_started("c", lag_alert=None, activity_ttl=60.0)
    assert metrics.consumer("active") == 1
    metrics.now.seconds += 61
    assert metrics.consumer("active") == 0
    metrics.hooks.event_received("c", metrics.event())
    metrics.now.seconds += 59
    assert metrics.consumer("active") == 1
    metrics.hooks.event_skipped("c", metrics.event())
    metrics.now.seconds += 59
    assert metrics.consumer("active") == 1


def test_without_a_ttl_there_is_no_gauge_of_activity(metrics: Metrics) -> None:
    metrics.hooks.consumer_started("c", lag_alert=None, activity_ttl=None)
    assert metrics.consumer("active") is None


def test_errors_that_belong_to_normal_operation_are_not_counted(metrics: Metrics) -> None:
    metrics.hooks.event_failed("c", metrics.event(), StreamStopped(), 2.0)
    assert metrics.consumer("error_count") == 0
    metrics.hooks.event_failed("c", metrics.event(), ValueError(), 3.0)
    assert metrics.consumer("error_count") == 1
    assert metrics.consumer("latency_seconds_sum") == 5.0


@pytest.mark.asyncio
async def test_a_run_updates_the_metrics(metrics: Metrics) -> None:
    events = MemoryEvents(clock=lambda: metrics.now() - 5)
    for kind in (1, 2, 1):
        await events.insert(1, kind)

    async def handle(event: Event) -> None:
        if event.id == "3":
            raise ValueError("bad luck")

    consumer = Consumer("c", handle, types={1})
    with pytest.raises(ValueError, match="bad luck"):
        await run(Spec(events, MemoryCursorStore(), consumer, to_head=True, hooks=metrics.hooks))
    assert metrics.consumer("lag_seconds") == 5.0
    assert metrics.consumer("latency_seconds_count") == 2
    assert metrics.consumer("error_count") == 1
    assert metrics.consumer("skipped_events_count") == 1
    assert metrics.consumer("active") == 1


# Consumers that don't run.


async def ignore(event: Event) -> None: ...


def stopped(events: Any, store: Any, **options: Any) -> Spec:
    return Spec(events, store, Consumer("c", ignore, lag_alert=30.0), **options)


@pytest.mark.asyncio
async def test_the_lag_of_a_stopped_consumer_is_the_age_of_the_oldest_event_not_consumed(
    metrics: Metrics,
) -> None:
    events, store = MemoryEvents(clock=metrics.now), MemoryCursorStore()
    spec = stopped(events, store)
    await metrics.hooks.measure(spec)
    assert metrics.consumer("lag_seconds") == 0
    for _ in range(3):
        await events.insert(1, 1)
        metrics.now.seconds += 20
    await metrics.hooks.measure(spec)
    assert (metrics.consumer("lag_seconds"), metrics.consumer("lag_alert")) == (60, 1)
    await store.set("c", "2")
    await metrics.hooks.measure(spec)
    assert (metrics.consumer("lag_seconds"), metrics.consumer("lag_alert")) == (20, 0)
    await store.set("c", "3")
    await metrics.hooks.measure(spec)
    assert metrics.consumer("lag_seconds") == 0


@pytest.mark.asyncio
async def test_the_lag_of_a_consumer_of_a_table_is_measured(connect: Connect, pool: asyncpg.Pool) -> None:
    metrics = Metrics()
    events, cursors = EventsTable("user_events"), CursorsTable("cursors")
    connection = await connect()
    await events.create(connection)
    await cursors.create(connection)
    await events.insert_many(connection, [(1, 1), (2, 1)])
    await connection.execute("UPDATE user_events SET timestamp = to_timestamp($1 - 100 / id)", metrics.now())
    spec = stopped(events.source(pool), cursors.store(pool))
    for cursor, lag in (("", 100), ("1", 50), ("2", 0)):
        await spec.store.set("c", cursor or "0")
        await metrics.hooks.measure(spec)
        assert metrics.consumer("lag_seconds") == lag


class NoHead(MemoryEvents):
    """A source without a head, as Go servers are."""

    async def head(self) -> str:
        raise RemoteError("no", code="UNIMPLEMENTED")


class Broken(MemoryEvents):
    async def head(self) -> str:
        raise ValueError("broken")


@pytest.mark.asyncio
async def test_a_source_without_a_head_is_read(metrics: Metrics) -> None:
    events = NoHead(clock=metrics.now)
    spec = stopped(events, MemoryCursorStore())
    await metrics.hooks.measure(spec)
    assert metrics.consumer("lag_seconds") == 0
    await events.insert(1, 1)
    metrics.now.seconds += 7
    await metrics.hooks.measure(spec)
    assert metrics.consumer("lag_seconds") == 7


@pytest.mark.asyncio
async def test_a_failed_measurement_is_logged_and_skipped(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    events = MemoryEvents(clock=metrics.now)
    await events.insert(1, 1)
    broken = Spec(Broken(), MemoryCursorStore(), Consumer("b", ignore))
    metrics.now.seconds += 9
    await metrics.hooks.measure(broken, stopped(events, MemoryCursorStore()))
    assert metrics.consumer("lag_seconds") == 9
    assert metrics.consumer("lag_seconds", consumer_name="b") is None
    assert "consumer b: the lag could not be measured" in caplog.text


@pytest.mark.asyncio
async def test_a_consumer_that_starts_at_the_head_is_not_measured(metrics: Metrics) -> None:
    events = MemoryEvents(clock=metrics.now)
    await events.insert(1, 1)
    await metrics.hooks.measure(stopped(events, MemoryCursorStore(), from_head=True))
    assert metrics.consumer("lag_seconds") is None


@pytest.mark.asyncio
async def test_a_watch_measures_periodically_until_cancelled(metrics: Metrics) -> None:
    events = MemoryEvents(clock=metrics.now)
    watch = asyncio.create_task(metrics.hooks.watch(stopped(events, MemoryCursorStore()), period=0.01))
    await eventually(lambda: metrics.consumer("lag_seconds") == 0, "the consumer is at the head")
    await events.insert(1, 1)
    metrics.now.seconds += 7
    await eventually(lambda: metrics.consumer("lag_seconds") == 7, "the consumer is behind")
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch


@pytest.mark.asyncio
async def test_the_period_of_a_watch_is_checked(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="period 0 is out of range"):
        await metrics.hooks.watch(period=0)


# Tables.


@pytest.mark.asyncio
@pytest.mark.every_postgres
async def test_pages_and_cursors_of_tables_are_counted(
    connect: Connect, pool: asyncpg.Pool, metrics: Metrics
) -> None:
    events = EventsTable("user_events", hooks=metrics.hooks)
    cursors = CursorsTable("cursors", hooks=metrics.hooks)
    connection = await connect()
    await events.create(connection)
    await cursors.create(connection)
    await events.insert_many(connection, [(i, 1) for i in range(1, 11)])
    await run(stopped(events.source(pool), cursors.store(pool), to_head=True))
    polls = metrics.table("events_table_poll_total")
    assert polls
    assert metrics.table("events_table_loading_duration_seconds_count") == polls
    assert metrics.table("events_table_deserialization_duration_seconds_count") == polls
    assert metrics.table("events_table_events_deserialized_total") == 10
    assert metrics.table("events_table_rcache_misses_total") == polls
    assert metrics.table("events_table_rcache_hits_total") is None
    assert metrics.table("events_table_gap_listening") == 1
    assert metrics.table("events_table_blocking_gap") == 0
    assert metrics.table("cursors_table_set_total", "cursors") == 10


@pytest.mark.asyncio
async def test_pages_that_streams_share_are_hits(
    connect: Connect, pool: asyncpg.Pool, metrics: Metrics
) -> None:
    events = EventsTable("user_events", hooks=metrics.hooks)
    connection = await connect()
    await events.create(connection)
    async with events.stream(pool) as one, events.stream(pool) as other, asyncio.timeout(deadline(10)):
        reads = [asyncio.create_task(stream.read_page()) for stream in (one, other)]
        # Each stream reads once for itself, and is at the head from then on.
        await eventually(
            lambda: metrics.table("events_table_rcache_misses_total") == 2, "both are at the head"
        )
        await events.insert(connection, 1, 1)
        assert [len(page) for page in await asyncio.gather(*reads)] == [1, 1]
    assert metrics.table("events_table_rcache_hits_total") == 2


@pytest.mark.asyncio
@pytest.mark.every_postgres
async def test_a_gap_blocks_until_it_is_resolved(
    connect: Connect, pool: asyncpg.Pool, metrics: Metrics
) -> None:
    events = EventsTable("user_events", hooks=metrics.hooks)
    connection, other = await connect(), await connect()
    await events.create(connection)
    transaction = other.transaction()
    await transaction.start()
    await events.insert(other, 1, 1)
    await events.insert(connection, 2, 1)
    async with events.stream(pool) as stream, asyncio.timeout(deadline(10)):
        read = asyncio.create_task(stream.read_page())
        await eventually(lambda: metrics.table("events_table_blocking_gap") == 1, "the stream is at the gap")
        await transaction.rollback()
        assert [event.foreign_id for event in await read] == ["2"]
    assert metrics.table("events_table_blocking_gap") == 0
    assert metrics.table("events_table_gap_detected_total") == 1


@pytest.mark.asyncio
async def test_a_gap_is_not_blocking_after_all_streams_are_closed(
    connect: Connect, pool: asyncpg.Pool, metrics: Metrics
) -> None:
    events = EventsTable("user_events", hooks=metrics.hooks)
    connection, other = await connect(), await connect()
    await events.create(connection)
    transaction = other.transaction()
    await transaction.start()
    await events.insert(other, 1, 1)
    await events.insert(connection, 2, 1)
    async with events.stream(pool) as stream:
        read = asyncio.create_task(stream.read_page())
        await eventually(lambda: metrics.table("events_table_blocking_gap") == 1, "the stream is at the gap")
        read.cancel()
    assert metrics.table("events_table_blocking_gap") == 0
    await transaction.rollback()


@pytest.mark.asyncio
async def test_noops_are_counted(connect: Connect, pool: asyncpg.Pool, metrics: Metrics) -> None:
    events = EventsTable("user_events", hooks=metrics.hooks)
    connection = await connect()
    await events.create(connection)
    transaction = connection.transaction()
    await transaction.start()
    await events.insert_many(connection, [(1, 1), (2, 1), (3, 1)])
    await transaction.rollback()
    await events.insert(connection, 4, 1)
    async with events.stream(pool, fill_gaps=True, to_head=True) as stream:
        assert [event.foreign_id async for event in stream] == ["4"]
    assert metrics.table("events_table_gap_filled_total") == 3


@pytest.mark.asyncio
async def test_errors_that_are_recorded_are_counted(connect: Connect, metrics: Metrics) -> None:
    errors = ErrorsTable(hooks=metrics.hooks)
    connection = await connect()
    await errors.create(connection)
    await errors.record(connection, consumer="c", event=metrics.event(), error=ValueError())
    assert metrics.consumer("dead_lettered_events_count") == 1


# Several processes.


def test_metrics_of_several_processes_are_combined(tmp_path: Path) -> None:
    child = Path(__file__).with_name("prometheus_child.py")
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
    for arguments in (("a", "3", "1"), ("b", "5", "2"), ("a", "4", "0")):
        subprocess.run([sys.executable, "-W", "error", child, *arguments], env=environment, check=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))  # type: ignore[no-untyped-call]
    value: Callable[..., float | None] = registry.get_sample_value
    for name, handled, failed in (("a", 7, 1), ("b", 5, 2)):
        labels = {"consumer_name": name}
        assert value("reflex_consumer_latency_seconds_count", labels) == handled + failed
        assert value("reflex_consumer_error_count", labels) == failed
        assert value("reflex_consumer_lag_alert", labels) == 1
        assert value("reflex_consumer_active", labels) == 1
        lag = value("reflex_consumer_lag_seconds", labels)
        assert lag is not None
        assert lag > 1e9
    assert value("reflex_events_table_poll_total", {"table": "t"}) == 3
    assert value("reflex_events_table_gap_listening", {"table": "t"}) == 1
    for metric in registry.collect():
        assert not any("pid" in sample.labels for sample in metric.samples), metric.name


# Documents.


def exported() -> set[str]:
    metrics = Metrics()
    touch_everything(metrics.hooks)
    return {sample.name for metric in metrics.registry.collect() for sample in metric.samples}


def named(text: str) -> set[str]:
    return set(re.findall(r"\breflex_[a-z_]+\b", text)) - {"reflex_aio"}


def test_the_page_on_metrics_lists_every_metric_and_no_other() -> None:
    described = set(
        re.findall(r"^\| `(reflex_\w+)` \|", (CHECKOUT / "docs/metrics.md").read_text(), re.MULTILINE)
    )
    assert described == CONSUMER_METRICS | TABLE_METRICS | OUR_METRICS


def test_the_alert_rules_use_existing_metrics() -> None:
    text = (CHECKOUT / "docs/alerts.yml").read_text()
    [group] = yaml.safe_load(text)["groups"]
    assert group["name"] == "reflex_aio"
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) >= 5
    for rule in group["rules"]:
        assert named(rule["expr"]), rule["alert"]
        assert named(rule["expr"]) <= exported(), rule["alert"]
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert {"summary", "description"} == rule["annotations"].keys()


def test_the_dashboard_uses_existing_metrics() -> None:
    dashboard = json.loads((CHECKOUT / "docs/grafana/reflex.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert expressions
    for expression in expressions:
        assert named(expression) <= exported(), expression
    shown = {name.removesuffix("_bucket") for expression in expressions for name in named(expression)}
    assert shown >= CONSUMER_METRICS
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
