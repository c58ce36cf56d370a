"""Which commands there are, and what the shell sees when one fails.

Exit codes: 0 done; 1 failed; 2 the command itself was wrong; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from typing import NoReturn

import typer

from pipeline.cli import bench, cost, doctor, fetch, plan, say, verify, voices
from pipeline.errors import BarkError, InvalidRequest, VoiceNotFound

app = typer.Typer(
    name="bark-serve",
    help="Suno's Bark, text to audio: exact, reproducible, fast.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("say")(say.say)
app.add_typer(voices.app, name="voices")
app.command("fetch")(fetch.fetch)
app.command("verify")(verify.verify)
app.command("cost")(cost.cost)
app.command("bench")(bench.bench)
app.command("plan")(plan.plan)
app.command("doctor")(doctor.doctor)
for entry in sorted(entry_points(group="bark_serve.commands"), key=lambda entry: entry.name):
    app.command(entry.name)(entry.load())


def main() -> NoReturn:
    """Run one command and exit; Typer itself answers wrong usage (2) and Ctrl-C (130)."""
    try:
        app()
        sys.exit(0)
    except (InvalidRequest, VoiceNotFound) as error:
        _fail(error.message, 2)
    except BarkError as error:
        _fail(error.message, 1)
    except BrokenPipeError:
        # the reader of our output went away (`| head`): no message, and none at shutdown either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1)


def _fail(message: str, code: int) -> NoReturn:
    print(f"bark-serve: {message}", file=sys.stderr)
    sys.exit(code)
