"""The command ``reflex-aio``, as ``python -m reflex_aio``."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command, or report in one line which package is missing."""
    try:
        from reflex_aio.cli.app import app
    except ModuleNotFoundError as exc:
        print(f"reflex-aio: {exc}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    app(prog_name="reflex-aio")


if __name__ == "__main__":
    main()
