"""The command line. Exit codes: 0 success, 1 a crash, 2 a refused recipe or input, 3 a gate refused promotion.

Signals end `run` and `sweep` with 130 (Ctrl-C) and 143 (SIGTERM).
"""

from __future__ import annotations

import errno
import os
import sys
import traceback

import typer

from flows.commands.check import check
from flows.commands.compare import compare
from flows.commands.deploy import deploy, undeploy
from flows.commands.filter import filter_
from flows.commands.lineage import lineage
from flows.commands.models import models
from flows.commands.promote import promote, rollback
from flows.commands.report import report
from flows.commands.run import run
from flows.commands.serve import serve
from flows.commands.shared import answer, console
from flows.commands.status import reconcile, status
from flows.commands.store import app as store
from flows.commands.sweep import sweep
from flows.commands.trigger import trigger
from flows.commands.validate import validate
from posttrain.runtime.garbage import unsearched_at_exit
from posttrain.runtime.redaction import clean
from schemas.errors import GateRefused, Refusal

CRASHED, REFUSED, GATE = 1, 2, 3
FULL = (errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    help="From raw text and preference pairs to a registered, aligned language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run)
app.command("sweep")(sweep)
app.command("check")(check)
app.command("validate")(validate)
app.command("filter")(filter_)
app.command("lineage")(lineage)
app.command("report")(report)
app.command("models")(models)
app.command("compare")(compare)
app.command("promote")(promote)
app.command("rollback")(rollback)
app.command("deploy")(deploy)
app.command("undeploy")(undeploy)
app.command("trigger")(trigger)
app.command("status")(status)
app.command("reconcile")(reconcile)
app.command("serve")(serve)
app.add_typer(store, name="store")


def main() -> None:
    """Entry point: user errors become one message and an exit code; a crash keeps its traceback."""
    unsearched_at_exit()
    answer.begin()
    try:
        app(standalone_mode=True)
    except SystemExit as stop:
        if stop.code == REFUSED and stop.__context__ is not None:  # a command line that typer has told to be none
            answer.refuse(stop.__context__, REFUSED)
        raise
    except Refusal as refusal:
        answer.refuse(refusal, REFUSED)
        console().print(f"refused  {refusal}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(REFUSED)
    except GateRefused as refusal:
        answer.refuse(refusal, GATE)
        console().print(str(refusal), style="yellow", highlight=False, markup=False, soft_wrap=True)
        sys.exit(GATE)
    except OSError as error:
        if error.errno not in FULL:
            sys.stderr.write(clean(traceback.format_exc()))
        else:  # no fault of the program: what to do is said, and nothing else
            console().print(clean(_said_of_full_disk(error)), style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(CRASHED)
    except Exception:  # not left to Python, which would print what its message holds
        sys.stderr.write(clean(traceback.format_exc()))
        sys.exit(CRASHED)


def _said_of_full_disk(error: OSError) -> str:
    """Of a write of our own it says already what it needs; of any other, where it was."""
    if error.filename is None and error.strerror != os.strerror(error.errno or 0):
        return f"failed   {error}"
    place = error.filename or "a file of the store, or of the folder for temporary files"
    return (
        f"failed   disk full: {place}\n  remedy:  make room, and run the same command again, which goes on from what is finished"
    )


if __name__ == "__main__":
    main()
