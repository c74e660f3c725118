"""Options that belong together: a dataclass that a command takes as one parameter, and typer sees as its fields."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

__all__ = ["expanded", "gathered"]


def expanded(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a command, with the fields of each dataclass among its parameters in place of it.

    :raises TypeError: if two of them have the same name
    """
    given: dict[str, inspect.Parameter] = {}
    for name, kind in _annotations(function).items():
        parameters = [inspect.signature(function).parameters[name].replace(annotation=kind)]
        if _is_group(kind):
            hints = get_type_hints(kind, include_extras=True)
            parameters = [
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    annotation=hints[field.name],
                    default=inspect.Parameter.empty if field.default is MISSING else field.default,
                )
                for field in fields(kind)
            ]
        for parameter in parameters:
            if parameter.name in given:
                raise TypeError(f"two options of {function.__name__} are called {parameter.name}")
            given[parameter.name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    return inspect.Signature(list(given.values()))


def gathered(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for a command, with each dataclass made of its fields among the values."""
    return {
        name: kind(**{field.name: values[field.name] for field in fields(kind)})
        if _is_group(kind)
        else values[name]
        for name, kind in _annotations(function).items()
    }


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    return {name: hints[name] for name in inspect.signature(function).parameters}


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind)
