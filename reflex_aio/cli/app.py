"""The command's commands: a line for each, and what ``--help`` shows beside what its function says."""

import typer

from reflex_aio.cli.tables import create, ddl, validate

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Look after events, cursors and consumers: PostgreSQL, by --dsn or REFLEX_DSN.",
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused or not confirmed, 5 not reachable,"
    " 130 interrupted, 143 terminated.",
)


def _examples(*lines: str) -> str:
    # Without \b, lines would be joined.
    return "Examples:\n\n\b\n" + "\n".join(f"  {line}" for line in lines)


app.command(
    epilog=_examples(
        "reflex-aio ddl --events user_events --metadata",
        "reflex-aio ddl events cursors errors > migrations/0007_events.sql",
    )
)(ddl)
app.command(
    epilog=_examples(
        "export REFLEX_DSN=postgresql://app@localhost/app",
        "reflex-aio create --events user_events",
        "reflex-aio create cursors errors",
    )
)(create)
app.command(
    epilog=_examples(
        "reflex-aio validate --events user_events --cursors cursors",
        "reflex-aio validate events --events user_events --events-columns timestamp=created_at --json",
    )
)(validate)
