"""What is to be run: a source, a cursor store, a consumer."""

import time
from collections.abc import Callable
from copy import copy
from typing import Any

from reflex_aio.attempts import AttemptStore
from reflex_aio.backoff import Backoff
from reflex_aio.checks import check_instance
from reflex_aio.consumer import BaseConsumer
from reflex_aio.cursor import CursorStore
from reflex_aio.hooks import Hooks, installed
from reflex_aio.lease import Lease
from reflex_aio.stream import Source, StreamOptions

__all__ = ["Spec"]


class Spec:
    """What to consume (``source``), who consumes it (``consumer``), and where its cursor is kept (``store``).

    :param from_head: each run starts after the head, whatever the stored cursor
    :param to_head: a run ends after the head
    :param lag: hand over an event once it is this old, in seconds, by this process's clock
    :param attempts: where failed attempts are kept: an event on which the handler failed is tried again no sooner
        than its backoff says, and the attempts at it count on, in whatever process it runs next. ``None``: nowhere
    :param retry_backoff: how long to wait after each failed attempt, where attempts are kept; by default 0.1 to 30
        seconds
    :param hooks: told what happens; by default those installed for the process
    :param clock: tells the time, in seconds since 1970
    :raises TypeError: if an argument isn't what its name says
    :raises ValueError: if ``lag`` is out of its range, or there is a ``retry_backoff`` without ``attempts``
    """

    def __init__(
        self,
        source: Source,
        store: CursorStore,
        consumer: BaseConsumer[Any],
        *,
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
        if consumer.needs_transactions and not store.has_transactions:
            raise TypeError(
                f"{consumer!r} commits its effects together with the cursor, and {store!r} has no transactions:"
                " accepted is a store such as cursors.store(pool), without flush_every"
            )
        if attempts is None and retry_backoff is not None:
            raise ValueError(
                f"retry_backoff {retry_backoff} without attempts: run_forever(spec, backoff=...) is without them"
            )
        self.source = source
        self.store = store
        self.consumer = consumer
        self.options: StreamOptions = StreamOptions(from_head, to_head, lag)
        self.attempts = attempts
        self.retry_backoff: Backoff = Backoff() if retry_backoff is None else retry_backoff
        self.hooks: Hooks = installed() if hooks is None else hooks
        self.clock = clock
        self.fence: Lease | None = None

    def fenced(self, lease: Lease) -> "Spec":
        """Return this spec as it runs under ``lease``: a run that has lost it can't move the cursor, and raises.

        The lease has to be one that the spec's cursor store can compare, as :class:`~reflex_aio.cursor.CursorStore`
        says. Who renews it, and ends the run when that fails, is the caller.
        """
        check_instance("lease", lease, Lease, "a Lease, such as await leases.store(pool).acquire(...)")
        spec = copy(self)
        spec.fence = lease
        return spec

    def __repr__(self) -> str:
        return f"Spec({self.source!r}, {self.store!r}, {self.consumer!r})"
