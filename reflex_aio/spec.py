"""A spec: the source, the cursor store and the consumer of a run, and its options."""

import time
from collections.abc import Callable
from copy import copy
from typing import Any

from reflex_aio.attempts import AttemptStore
from reflex_aio.backoff import Backoff
from reflex_aio.checks import check_instance, check_text, wrong_type
from reflex_aio.consumer import BaseConsumer
from reflex_aio.cursor import CursorStore
from reflex_aio.hooks import Hooks, installed
from reflex_aio.lease import Lease, LeaseStore
from reflex_aio.stream import Source, StreamOptions

__all__ = ["Spec"]


class Spec:
    """The parts and options of a run: ``consumer`` handles the events of ``source``, and ``store`` keeps its cursor.

    Combinations that cannot work are refused when the spec is made.

    :param start: the place where a consumer without a stored cursor starts:

        - ``"beginning"``: at the oldest event
        - ``"head"``: after the event that is the newest at that time
        - any other string: after the event with this id
        - another cursor store: at the cursor that the consumer has there, or at the beginning if it has none

        Except for ``"beginning"``, the cursor is stored at once, so that no later run skips events. If another run of
        the consumer stores a cursor first, that cursor is used. The source must be able to return its head for
        ``"head"``, which Go servers are not
    :param from_head: start each run after the head, whatever cursor is stored
    :param to_head: end a run after the head
    :param lag: deliver an event when it has this age, in seconds by this process's clock
    :param attempts: where failed attempts are kept. An event on which the handler failed is delivered again after the
        delay of ``retry_backoff``, and the attempts are counted, across restarts and processes. ``None`` to keep none
    :param retry_backoff: delays after failed attempts, with ``attempts``; by default 0.1 to 30 seconds
    :param hooks: called during runs; by default those installed for the process
    :param clock: returns the time, in seconds since 1970
    :raises TypeError: if an argument has the wrong type, or the consumer needs a cursor store with transactions
    :raises ValueError: if ``lag`` is out of range, ``from_head`` is combined with ``start``, or ``retry_backoff`` is
        given without ``attempts``
    :raises InvalidCursor: if ``start`` is not an event id of the source
    """

    def __init__(
        self,
        source: Source,
        store: CursorStore,
        consumer: BaseConsumer[Any],
        *,
        start: str | CursorStore = "beginning",
        from_head: bool = False,
        to_head: bool = False,
        lag: float | None = None,
        attempts: AttemptStore | None = None,
        retry_backoff: Backoff | None = None,
        hooks: Hooks | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_instance("source", source, Source, "a Source, such as events.source(pool)")
        check_instance("store", store, CursorStore, "a CursorStore, such as cursors.store(pool)")
        check_instance("consumer", consumer, BaseConsumer, "a Consumer")
        check_instance(
            "attempts",
            attempts,
            AttemptStore | None,
            "an AttemptStore, such as attempts.store(pool), or None",
        )
        check_instance("retry_backoff", retry_backoff, Backoff | None, "a Backoff, or None")
        check_instance("hooks", hooks, Hooks | None, "Hooks, or None")
        if consumer.needs_transactions and not store.has_transactions:
            raise TypeError(
                f"{consumer!r} commits its effects together with the cursor, and {store!r} has no transactions:"
                " accepted is a store such as cursors.store(pool), without flush_every"
            )
        if attempts is None and retry_backoff is not None:
            raise ValueError(
                f"retry_backoff {retry_backoff} without attempts: accepted is run_forever(spec, backoff=...)"
            )
        self.source = source
        self.store = store
        self.consumer = consumer
        self.options: StreamOptions = StreamOptions(from_head, to_head, lag)
        self.start: str | CursorStore = _check_start(start, source, store, from_head)
        self.attempts = attempts
        self.retry_backoff: Backoff = Backoff() if retry_backoff is None else retry_backoff
        self.hooks: Hooks = installed() if hooks is None else hooks
        self.clock = clock
        self.fence: Lease | None = None

    def fenced(self, lease: Lease) -> "Spec":
        """Return this spec with ``lease`` as its fencing token: once the lease is lost, a run cannot move the cursor.

        Such a run raises :class:`~reflex_aio.errors.LeaseLost`. The caller renews the lease, and ends the run if that
        fails.

        :raises TypeError: if it is not a lease that the spec's cursor store can compare
        """
        check_instance("lease", lease, Lease, "a Lease, such as await leases.store(pool).acquire(...)")
        self._check_fence(type(lease), f"lease {lease!r}")
        spec = copy(self)
        spec.fence = lease
        return spec

    def check_leases(self, leases: LeaseStore) -> None:
        """Check that the spec's cursor store can compare the leases of ``leases``.

        :raises TypeError: if it cannot
        """
        self._check_fence(leases.lease_type, f"leases {leases!r}")

    def _check_fence(self, lease_type: type[Lease], given: str) -> None:
        accepted = self.store.fence_type
        if accepted is None:
            raise TypeError(
                f"{given} with {self.consumer!r}: its cursor store {self.store!r} compares no leases:"
                " accepted is a store with a fence_type, such as cursors.store(pool)"
            )
        if not issubclass(lease_type, accepted):
            raise TypeError(
                f"{given} with {self.consumer!r}: its cursor store {self.store!r} cannot compare a"
                f" {lease_type.__name__}: accepted is a {accepted.__name__}, as of a lease store in the same database"
            )

    def __repr__(self) -> str:
        return f"Spec({self.source!r}, {self.store!r}, {self.consumer!r})"


def _check_start(start: object, source: Source, store: CursorStore, from_head: bool) -> str | CursorStore:
    if isinstance(start, CursorStore):
        if start is store:
            raise ValueError(f"start is the spec's own store {store!r}: accepted is another one")
    elif isinstance(start, str):
        check_text("start", start)
        if start not in ("beginning", "head"):
            # Raises InvalidCursor now, rather than when the first run opens its stream.
            source.stream(start)
    else:
        raise wrong_type("start", start, "'beginning', 'head', an event id as a str, or another CursorStore")
    if from_head and start != "beginning":
        raise ValueError(
            f"start {start!r} with from_head=True, which starts every run after the head: accepted is one of them"
        )
    return start
