"""The command ``reflex-aio``. The one home of typer and rich (extra ``cli``).

Each command is a function in a file of its own, or that of its family, and a line in ``app.py``. What it needs of
databases and services it imports when it runs: ``--help`` loads no client library.
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
