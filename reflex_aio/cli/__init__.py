"""The command ``reflex-aio``. Requires typer and rich (extra ``cli``).

Each command is an async function, in a file named after it or after its family, and is registered in ``app.py``. A
command imports client libraries only when it runs, so that ``--help`` loads none.
"""

try:
    import rich
    import typer
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "the command needs typer and rich: pip install 'reflex-aio[cli]'", name=exc.name
    ) from exc

__all__: list[str] = []

del rich, typer
