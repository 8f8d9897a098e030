"""The commands.

Each file of this package holds the commands of one subject, and imports what it needs inside the command,
so that `--help` answers at once.  Results go to stdout, logs and progress to stderr.

Exit codes: 0 done, 1 the work found a problem, 2 wrong usage, 78 configuration error (`EX_CONFIG`).
"""

import atexit
import gc
import io
import os
import sys
from pathlib import Path
from typing import Final

import typer

from xray_batch import DISCLAIMER, __version__
from xray_batch.cli import (
    bench,
    bundles,
    calibrate,
    database,
    demo,
    doctor,
    evaluate,
    explain,
    inspect,
    process,
    prune,
    replay,
    requeue,
    results,
    selftest,
    stats,
    status,
    train,
    watch,
    web,
)
from xray_batch.errors import ConfigurationError, XrayBatchError
from xray_batch.pipeline.environment import threads, waiting

EXIT_PROBLEM: Final = 1
EXIT_CONFIGURATION: Final = 78

app = typer.Typer(
    name="xray-batch",
    help=f"Drop chest X-ray studies into a folder, read calibrated answers from a SQL database.\n\n{DISCLAIMER}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"xray-batch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_print_version, is_eager=True),
) -> None:
    """Hold what is common to all commands."""


app.command("demo")(demo.demo)
app.command("process")(process.process)
app.command("inspect")(inspect.inspect)
app.command("explain")(explain.explain)
app.command("stats")(stats.stats)
app.command("watch")(watch.watch)
app.command("web")(web.web)
app.command("results")(results.results)
app.command("replay")(replay.replay)
app.command("requeue")(requeue.requeue)
app.command("prune")(prune.prune)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("selftest")(selftest.selftest)
app.command("bench")(bench.bench)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.add_typer(bundles.app, name="bundle")
app.add_typer(database.app, name="db")


def main() -> None:
    """Run a command; an error that is no bug of ours is one sentence, never a traceback."""
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names and identifiers are of any language: programs are given UTF-8, and no locale ends a command.
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="backslashreplace")
    atexit.register(gc.freeze)  # hundreds of thousands of objects of libraries need not be looked through at the end
    os.environ.update(waiting(os.environ) | threads(os.environ))
    _check_working_folder()
    try:
        app([_expand_home(argument) for argument in sys.argv[1:]], prog_name="xray-batch")
    except ConfigurationError as error:
        sys.stderr.write(f"xray-batch: {error}\n")
        sys.exit(EXIT_CONFIGURATION)
    except XrayBatchError as error:
        sys.stderr.write(f"xray-batch: {error}\n")
        sys.exit(EXIT_PROBLEM)
    except OSError as error:
        sys.stderr.write(f"xray-batch: {error.filename or 'the system'}: {error.strerror}\n")
        sys.exit(EXIT_PROBLEM)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            raise
        advice = "look at the installation, and at limits of the address space (ulimit -v, LimitAS=)"
        sys.stderr.write(f"xray-batch: a library cannot be loaded: {error}; {advice}\n")
        sys.exit(EXIT_CONFIGURATION)


def _check_working_folder() -> None:
    """End with a sentence where the working folder was removed: libraries that cannot ask for it end the process."""
    try:
        Path.cwd()
    except FileNotFoundError:
        sys.exit("xray-batch: the working folder was removed; change to another one, with cd")


def _expand_home(argument: str) -> str:
    """Put a home folder in the place of `~` in `--option=~/path`; in `--option ~/path` the shell has done so."""
    name, _, value = argument.partition("=")
    if not (name.startswith("--") and value.startswith("~")):
        return argument
    try:
        return f"{name}={Path(value).expanduser()}"
    except RuntimeError:  # there is no such user
        return argument


def _open_closed_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    Else what is opened next, a socket of the database among it, gets that number, and all that libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # those before it are open by now: it is the lowest free number
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
