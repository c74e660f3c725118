"""Raising an error of ours where a client library has raised one of its own."""

from collections.abc import Callable
from types import TracebackType

from reflex_aio.errors import ReflexError

__all__ = ["Translation"]


class Translation:
    """The context that :meth:`Driver.errors` returns. A class, as a generator can be entered only once.

    :param translate: returns the error to raise in place of another, or ``None`` to let that pass
    """

    __slots__ = ("_translate",)

    def __init__(self, translate: Callable[[Exception], ReflexError | None]) -> None:
        self._translate = translate

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, Exception) and (ours := self._translate(exc)):
            raise ours from exc
