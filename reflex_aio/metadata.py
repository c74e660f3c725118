"""Codecs: typed values as the metadata of events."""

from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from reflex_aio.errors import MetadataError
from reflex_aio.event import Event

__all__ = ["JsonCodec", "MessagePackCodec", "MetadataCodec"]

T = TypeVar("T")


class MetadataCodec(ABC, Generic[T]):
    """Encodes values of one type as metadata, and decodes them.

    An events table encodes with it, ``EventsTable(metadata=codec)``; a consumer decodes with it, also the events of a
    remote source::

        orders = JsonCodec(Order)

        async def handle(event: Event) -> None:
            order = orders.decode(event)
    """

    @abstractmethod
    def encode(self, value: T) -> bytes:
        """Return ``value`` as bytes.

        :raises TypeError: if it has the wrong type
        :raises ValueError: if a part of it is not accepted
        """

    @abstractmethod
    def decode_bytes(self, data: bytes) -> T:
        """Return the value that was encoded as ``data``.

        :raises Exception: if ``data`` is anything else
        """

    def decode(self, event: Event) -> T:
        """Return the metadata of ``event``, decoded now.

        :raises MetadataError: if it cannot be decoded, or the event has none
        """
        if event.metadata is None:
            raise MetadataError(event_id=event.id, reason="it has none")
        try:
            return self.decode_bytes(event.metadata)
        except Exception as exc:
            raise MetadataError(event_id=event.id, reason=str(exc)) from exc


class _Coder(Protocol):
    """A pair of functions of msgspec's."""

    def encode(self, value: Any) -> bytes: ...
    def decode(self, data: bytes) -> Any: ...


class _TypedCodec(MetadataCodec[T]):
    """Encodes what can be decoded as one type."""

    def __init__(self, type: type[T], coder: _Coder) -> None:
        self._type = type
        self._coder = coder

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({getattr(self._type, '__name__', self._type)})"

    def encode(self, value: T) -> bytes:
        """Return ``value`` as bytes, from which it can be decoded again.

        :raises TypeError: if it has the wrong type
        :raises ValueError: if a part of it is not accepted
        """
        data = self._coder.encode(value)
        try:
            # msgspec checks types when it decodes, not when it encodes.
            self._coder.decode(data)
        # Old versions of msgspec have no ValueErrors.
        except (msgspec.MsgspecError, ValueError) as exc:
            raise TypeError(
                f"metadata is a {value.__class__.__name__} that {self!r} would not decode again: {exc}"
            ) from exc
        return data

    def decode_bytes(self, data: bytes) -> T:
        """Return the value that was encoded as ``data``.

        :raises ValueError: if ``data`` is anything else
        """
        value: T = self._coder.decode(data)
        return value


class JsonCodec(_TypedCodec[T]):
    """JSON of a type.

    :param type: a ``msgspec.Struct``, or any other type that msgspec supports, such as a dataclass, a ``TypedDict`` or
        ``dict[str, int]``; or a pydantic model
    :raises TypeError: if msgspec does not support the type
    """

    def __init__(self, type: type[T]) -> None:
        super().__init__(type, _PydanticCoder(type) if _is_pydantic(type) else _JsonCoder(type))


class MessagePackCodec(_TypedCodec[T]):
    """MessagePack of a type, which is smaller than JSON and faster, but not readable in the database.

    :param type: a ``msgspec.Struct``, or any other type that msgspec supports. Not a pydantic model
    :raises TypeError: if msgspec does not support the type
    """

    def __init__(self, type: type[T]) -> None:
        if _is_pydantic(type):
            raise TypeError(f"{type.__name__} is a pydantic model: JsonCodec accepts it")
        super().__init__(type, _MessagePackCoder(type))


class _JsonCoder:
    def __init__(self, type: Any) -> None:
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(type).decode


class _MessagePackCoder:
    def __init__(self, type: Any) -> None:
        self.encode = msgspec.msgpack.Encoder().encode
        self.decode = msgspec.msgpack.Decoder(type).decode


class _PydanticCoder:
    def __init__(self, type: Any) -> None:
        self._type = type
        self.decode = type.model_validate_json

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, self._type):
            raise TypeError(f"metadata is a {value.__class__.__name__}: accepted is a {self._type.__name__}")
        data: bytes = value.model_dump_json().encode()
        return data


def _is_pydantic(kind: Any) -> bool:
    # By its method, as pydantic need not be installed.
    return isinstance(kind, type) and hasattr(kind, "model_validate_json")
