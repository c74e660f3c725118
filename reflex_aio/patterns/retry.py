"""Trying again in place, before an error leaves the handler."""

import logging
from typing import TypeVar

import anyio

from reflex_aio.backoff import Backoff
from reflex_aio.checks import check_callable, check_count
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
    """Return a handler that calls ``handler`` again when it raises; the event stays in flight meanwhile.

    It fits every kind of consumer, as it takes whatever ``handler`` does. A cancellation is never tried again.

    What is left of the calls is known in memory alone. For attempts that outlive the process, see ``attempts`` of
    :class:`~reflex_aio.spec.Spec`.

    :param retries: how often to call it again at most, before its last error is raised; ``None`` for any number
    :param backoff: how long to wait between the calls; by default 0.1 to 30 seconds
    :param errors: what to try again after; everything else is raised at once
    :raises ValueError: if ``retries`` is negative
    :raises TypeError: if an argument has the wrong type
    """
    check_callable("handler", handler)
    left_at_first = check_count("retries", retries, least=0, none=True)
    backoff = Backoff() if backoff is None else backoff

    async def handle(item: Item) -> None:
        left, delays, pending_before = left_at_first, backoff.delays(), pending_cancellations()
        while True:
            try:
                await handler(item)
                return
            except errors as exc:
                # A failed clean-up may have taken the place of a cancellation: to go on would be to swallow it.
                if left == 0 or pending_cancellations() > pending_before:
                    raise
                delay = next(delays)
                logger.warning("%r failed, trying again in %.1f s: %r", handler, delay, exc)
            if left is not None:
                left -= 1
            await anyio.sleep(delay)

    return handle
