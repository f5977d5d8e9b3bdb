"""The command line: ``nni-proxyless COMMAND``.

Results go to stdout, the log and progress bars to stderr. Exit codes: 0, done; 1, something failed; 2, the input is wrong;
141, the reader of the results has gone (:mod:`..core.streams`).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from ..core.cpu_threads import environment

os.environ.update(environment())  # before anything imports torch

from .. import __version__
from ..core.errors import UserError
from ..core.resource_errors import explain
from ..core.streams import prepare_streams, say, to_reader
from .check import add_check_command
from .derive import add_derive_command
from .draw import add_draw_command
from .export import add_export_command
from .fetch import add_fetch_command
from .init import add_init_command
from .latency import add_latency_command
from .log import log_to_stderr
from .reference import add_reference_command
from .report import add_report_command
from .search import add_search_command
from .space import add_space_command
from .train import add_train_command
from .watch import add_watch_command

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    prepare_streams()
    return to_reader(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    # NNI 3.0 wraps every class it finds in torch.nn and takes newer ones that are no modules for a sign of trouble.
    warnings.filterwarnings("ignore", message=r".*is found to be not a nn\.Module", category=RuntimeWarning)
    # A loader without worker processes is right for images in memory, and the user's own choice elsewhere.
    warnings.filterwarnings("ignore", message=r".*does not have many workers", category=UserWarning)
    log_to_stderr()
    try:
        return arguments.run(arguments)
    except UserError as error:
        say(f"nni-proxyless: {error}")
        return 2
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning makes an exit with code 1 of an interrupt, and of SIGTERM one with code 0, which would pass for a search that is done.
        # The other one is of a program that was timed. By name: what defines them need not be imported.
        if type(error).__name__ in ("SIGTERMException", "EndedBySignal"):
            say("nni-proxyless: terminated")
            return _end_by(getattr(error, "number", signal.SIGTERM))
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        say("nni-proxyless: interrupted")
        return _end_by(signal.SIGINT)
    except Exception as error:
        if (reason := explain(error)) is None:
            raise
        say(f"nni-proxyless: {reason}")
        return 1


def _end_by(number: int) -> int:
    """End by the signal itself, so that whoever started this knows: NNI takes any exit code for a failed trial, and a trial
    that has ended by a signal for one that its assessor or its user has stopped."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number  # where signals are no more than exit codes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nni-proxyless", description="Hardware-aware one-shot architecture search for NNI."
    )
    parser.add_argument("--version", action="version", version=f"nni-proxyless {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_search_command(commands)

    add_init_command(commands)

    add_check_command(commands)

    add_space_command(commands)

    add_train_command(commands)

    add_latency_command(commands)

    add_derive_command(commands)

    add_draw_command(commands)

    add_reference_command(commands)

    add_export_command(commands)

    add_watch_command(commands)

    add_report_command(commands)

    add_fetch_command(commands)
    return parser
