"""The registration of all commands, with the examples that ``--help`` shows."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from reflex_aio.cli import dead_letters
from reflex_aio.cli.bench import bench
from reflex_aio.cli.consumers import consumers
from reflex_aio.cli.move_cursor import rewind, skip
from reflex_aio.cli.output import print_line
from reflex_aio.cli.prune import prune
from reflex_aio.cli.run import run
from reflex_aio.cli.serve import serve
from reflex_aio.cli.tables import create, ddl, validate
from reflex_aio.cli.tail import tail
from reflex_aio.cli.top import top

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Inspect and manage events, cursors and consumers in PostgreSQL, MySQL or MariaDB.",
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused or not confirmed, 5 unreachable,"
    " 130 interrupted, 143 terminated.",
)


def _print_version(requested: bool) -> None:
    if requested:
        try:
            print_line(version("reflex-aio"))
        except PackageNotFoundError:
            print_line("not installed: run from a checkout")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


def _examples(*lines: str) -> str:
    # Without \b, typer would join the lines.
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
app.command(
    epilog=_examples(
        "reflex-aio tail --events user_events",
        "reflex-aio tail --events user_events --after 41 --to-head --types 1,2",
        "reflex-aio tail --grpc users.internal:50051 --stream users --json | jq .foreign_id",
    )
)(tail)
app.command(
    epilog=_examples(
        "reflex-aio consumers --events user_events --cursors cursors",
        "reflex-aio consumers --events user_events --only 'mail-*' --json",
        "reflex-aio consumers --events user_events --max-lag 300 || page-somebody",
    )
)(consumers)
app.command(
    epilog=_examples(
        "reflex-aio top --events user_events",
        "reflex-aio top --events user_events --every 10 --json >> lag.jsonl",
    )
)(top)
app.command(
    epilog=_examples(
        "reflex-aio rewind send-mail --to 41 --events user_events --dry-run",
        "reflex-aio rewind send-mail --since 2h --events user_events",
        "reflex-aio rewind search --to-oldest --events user_events --yes",
    )
)(rewind)
app.command(
    epilog=_examples(
        "reflex-aio skip send-mail --events user_events",
        "reflex-aio skip send-mail --to 41 --events user_events --dry-run",
        "reflex-aio skip new-consumer --new --to-head --events user_events --yes",
    )
)(skip)
app.command(
    epilog=_examples(
        "reflex-aio prune --older-than 30d --events user_events --dry-run",
        "reflex-aio prune --older-than 30d --events user_events --expect send-mail --ignore 'payments-*'",
        "reflex-aio prune --before 1000000 --events user_events --force",
    )
)(prune)

letters = typer.Typer(
    no_args_is_help=True, help="Manage the events that consumers have given up: list, show, replay, resolve."
)
app.add_typer(letters, name="dead-letters")
letters.command(
    "list",
    epilog=_examples(
        "reflex-aio dead-letters list",
        "reflex-aio dead-letters list --consumer send-mail --status all --json",
    ),
)(dead_letters.list_)
letters.command(
    epilog=_examples(
        "reflex-aio dead-letters show 17",
        "reflex-aio dead-letters show 17 --json | jq -r .message",
    )
)(dead_letters.show)
letters.command(
    epilog=_examples(
        "reflex-aio dead-letters replay 17 --handler app.mail:send_mail --events user_events",
        "reflex-aio dead-letters replay 17 18 19 --handler app.mail:consumer --events user_events",
    )
)(dead_letters.replay)
letters.command(
    epilog=_examples(
        "reflex-aio dead-letters resolve 17",
        "reflex-aio dead-letters resolve 17 18 19 --json",
    )
)(dead_letters.resolve)

app.command(
    epilog=_examples(
        "reflex-aio serve --events user_events --listen 0.0.0.0:50051",
        "reflex-aio serve --stream users=user_events --stream payments=billing.payment_events",
    )
)(serve)
app.command(
    epilog=_examples(
        "reflex-aio bench",
        "reflex-aio bench --seconds 10 --writers 16 --yes --json",
    )
)(bench)
app.command(
    epilog=_examples(
        "reflex-aio run service.main:runner",
        "reflex-aio run service.main:runner --health-port 8080 --health-host 0.0.0.0",
    )
)(run)
