"""The verbs, and the exit status of errors: 2 and one line for a mistake of the user."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from flowclf.cli import (
    audit,
    bench,
    decide,
    evaluate,
    explore,
    export,
    generate,
    listing,
    report,
    study,
    sweep,
    train,
)
from flowclf.support.atomic_files import tell
from flowclf.support.errors import UserError, first_line, printable

USER_MISTAKE, FAILURE = 2, 1

app = typer.Typer(
    name="flowclf",
    help="Train, evaluate and look into generative classifiers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("decide")(decide.decide)
app.command("audit")(audit.audit)
app.command("sweep")(sweep.sweep)
app.command("explore")(explore.explore)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("sample")(generate.sample)
app.command("interpolate")(generate.interpolate)
app.command("figure")(generate.figure)
app.command("systems")(listing.systems)
app.command("datasets")(listing.datasets)
app.add_typer(study.study, name="study")
app.command("bench")(bench.bench)

# typer brings its own click; the base of its usage errors is found through one it exports.
UsageErrors: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


@app.callback(invoke_without_command=True)
def version(
    show: bool = typer.Option(
        False, "--version", help="Print the version and the CPU kernels, and exit."
    ),
) -> None:
    """Train, evaluate and look into generative classifiers."""
    if show:
        from importlib.metadata import version

        print(version("flowclf"), flush=True)
        from couplings.ops import native  # imports torch

        print(native.description())
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 success, 2 the user's mistake, 1 anything else."""
    # OpenMP's threads spin while they wait, which slows a step tenfold and more once other programs
    # want the cores. To spin for less (0, 100) makes a step of IB-INN on MNIST a fifth to a half
    # slower on a quiet machine, and saves a tenth on a busy one at best. Must be set before torch
    # is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    _open_streams()
    if "LOCAL_RANK" in os.environ:
        from flowclf.support.orphans import end_with_parent

        end_with_parent()
    status = run(arguments)
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        # Threads of connections to other processes may abort any other exit.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _open_streams() -> None:
    """Make streams that are closed, or cannot encode all letters, ones that can be printed to."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        status = app(args=None if arguments is None else list(arguments), standalone_mode=False)
    except UsageErrors as error:
        # Without arguments there is no message: the help has been printed by then.
        text = printable(error.format_message())
        return fail(text, USER_MISTAKE) if text else USER_MISTAKE
    except typer.Abort:
        return fail("stopped", FAILURE)
    except BrokenPipeError:
        return FAILURE
    except Exception as error:
        return known_error(error)
    return status if isinstance(status, int) else 0


def known_error(error: Exception) -> int:
    """Print one line for an error that a user can mend; raise all others, with their traceback."""
    if isinstance(error, UserError):
        return fail(str(error), USER_MISTAKE)
    # They bring torch, which takes seconds: a folder in use is said at once.
    from couplings import ShapeError
    from flowclf.training import Interrupted, TrainingDiverged

    if isinstance(error, ShapeError):
        return fail(str(error), USER_MISTAKE)
    if isinstance(error, Interrupted | TrainingDiverged | OSError):
        return fail(str(error), FAILURE)
    if lacks_memory(error):
        return fail(f"not enough memory: {first_line(error)}", FAILURE)
    raise error


def lacks_memory(error: Exception) -> bool:
    """Tell whether Python, C++ or a device ran out of memory; torch says so in words alone."""
    said = ("allocate memory", "bad_alloc", "out of memory")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def fail(message: str, status: int) -> int:
    """Print the message to standard error and return the status."""
    tell(f"flowclf: {message}")
    return status
