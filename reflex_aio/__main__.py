"""``python -m reflex_aio``, which is the command ``reflex-aio``."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command, or say in one line what it needs."""
    try:
        from reflex_aio.cli.app import app
    except ModuleNotFoundError as exc:
        print(f"reflex-aio: {exc}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    app(prog_name="reflex-aio")


if __name__ == "__main__":
    main()
