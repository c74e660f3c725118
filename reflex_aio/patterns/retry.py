"""Retries within a handler, without ending the run."""

import logging
from typing import TypeVar

import anyio

from reflex_aio.backoff import Backoff
from reflex_aio.checks import check_async, check_count
from reflex_aio.consumer import HandlerOf
from reflex_aio.tasks import pending_cancellations

__all__ = ["retrying"]

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


def retrying(
    handler: HandlerOf[Item],
    *,
    retries: int | None,
    backoff: Backoff | None = None,
    errors: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> HandlerOf[Item]:
    """Return a handler that calls ``handler`` again when it raises. The event stays in flight in the meantime.

    The result can be used with every kind of consumer, since it has the arguments of ``handler``. Cancellations are not
    retried.

    The calls are counted in memory. For attempts that are kept across restarts, see ``attempts`` of
    :class:`~reflex_aio.spec.Spec`.

    :param retries: greatest number of further calls, after which the last error is raised; ``None`` for no limit
    :param backoff: delays between the calls; by default 0.1 to 30 seconds
    :param errors: the exceptions to retry; all others are raised at once
    :raises ValueError: if ``retries`` is negative
    :raises TypeError: if an argument has the wrong type
    """
    handler = check_async("handler", handler)
    name = getattr(handler, "__qualname__", type(handler).__name__)
    allowed = check_count("retries", retries, least=0, none=True)
    backoff = Backoff() if backoff is None else backoff

    async def handle(item: Item) -> None:
        left, delays, pending_before = allowed, backoff.delays(), pending_cancellations()
        while True:
            try:
                await handler(item)
                return
            except errors as exc:
                # An error during clean-up may have replaced a cancellation: to go on would swallow the cancellation.
                if left == 0 or pending_cancellations() > pending_before:
                    raise
                delay = next(delays)
                logger.warning("%s failed on %r, retrying in %.1f s: %r", name, item, delay, exc)
            if left is not None:
                left -= 1
            await anyio.sleep(delay)

    return handle
