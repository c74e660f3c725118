"""Codecs encode values of their type as metadata. What they cannot decode is an error of the event."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

from reflex_aio import Event
from reflex_aio.errors import MetadataError
from reflex_aio.metadata import JsonCodec, MessagePackCodec, MetadataCodec


class Order(msgspec.Struct):
    number: Annotated[int, msgspec.Meta(ge=1)]
    note: str = ""


class Invoice(msgspec.Struct):
    number: int


class Payment(pydantic.BaseModel):
    cents: int = pydantic.Field(ge=1)


@dataclass
class Point:
    x: int
    y: int


CODECS: list[tuple[Callable[[Any], MetadataCodec[Any]], Any, Any]] = [
    *((make, Order, Order(7, "é")) for make in (JsonCodec, MessagePackCodec)),
    *((make, Point, Point(1, -1)) for make in (JsonCodec, MessagePackCodec)),
    *((make, dict[str, int], {"a": 1}) for make in (JsonCodec, MessagePackCodec)),
    (JsonCodec, Payment, Payment(cents=5)),
]


def event(metadata: bytes | None) -> Event:
    return Event("9", 1, "7", 0, metadata)


@pytest.mark.parametrize(("make", "kind", "value"), CODECS)
def test_what_is_encoded_is_decoded(make: Callable[[Any], MetadataCodec[Any]], kind: Any, value: Any) -> None:
    codec = make(kind)
    assert codec.decode(event(codec.encode(value))) == value


@pytest.mark.parametrize(
    "value",
    [Order(0), Order("7"), {"note": "without a number"}, 7, "text", None],  # type: ignore[arg-type]
)
@pytest.mark.parametrize("make", [JsonCodec, MessagePackCodec])
def test_what_could_not_be_decoded_again_is_refused(make: Any, value: Any) -> None:
    with pytest.raises(TypeError, match="would not decode again"):
        make(Order).encode(value)


def test_a_value_that_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        JsonCodec(Order).encode(object())  # type: ignore[arg-type]


def test_another_model_of_pydantic_is_refused() -> None:
    with pytest.raises(TypeError, match="metadata is a Order: accepted is a Payment"):
        JsonCodec(Payment).encode(Order(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="would not decode again"):
        JsonCodec(Payment).encode(Payment.model_construct(cents=0))


@pytest.mark.parametrize("metadata", [b"", b"{", b"[]", b'{"number": 0}', b"\xff", b'{"number": "7"}', None])
@pytest.mark.parametrize("codec", [JsonCodec(Order), MessagePackCodec(Order), JsonCodec(Payment)])
def test_what_cannot_be_decoded_is_an_error_that_names_the_event(
    codec: MetadataCodec[Any], metadata: bytes | None
) -> None:
    with pytest.raises(MetadataError, match=r"metadata of event 9 could not be decoded: \w+"):
        codec.decode(event(metadata))


def test_types_that_cannot_be_encoded_are_refused_when_the_codec_is_made() -> None:
    with pytest.raises(TypeError, match="JsonCodec accepts it"):
        MessagePackCodec(Payment)
    with pytest.raises(TypeError, match="must be tagged"):
        JsonCodec(Order | Invoice)  # type: ignore[arg-type]
