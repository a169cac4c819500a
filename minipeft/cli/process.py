"""How a command ends: its exit code, a mistake in one line, Ctrl-C, a closed pipe, an encoding without "φ"."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from minipeft.hints import install

USER_MISTAKE = 2
INTERRUPTED = 130
PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE ended


class UserError(Exception):
    """A mistake of the user's: one line, exit code 2."""


def run_command(
    name: str,
    command: Callable[[], int],
    mistakes: tuple[type[Exception], ...] = (),
    interrupted: str = "interrupted",
) -> int:
    """Run ``command`` and return its exit code; 2 after a user's mistake, 130 after Ctrl-C.

    name: precedes every message, such as "minipeft lab".
    mistakes: exceptions whose message is meant for the user, besides UserError and OSError. All others keep their
    traceback.
    interrupted: the message after Ctrl-C.

    Returns 141 without a message if nobody reads stdout any more (``| head``).
    """
    _replace_what_stdout_cannot_encode()
    expected: tuple[type[Exception], ...] = (UserError, OSError, *mistakes)
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()  # a closed pipe is noticed here and not at the interpreter's exit
    except expected as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return PIPE_CLOSED
        print(f"{name}: {error}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Report a package that is not installed as a UserError that names the extra to install; what: the command."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "minipeft":
            raise
        raise UserError(f"{what} needs {error.name}; {install(extra)}") from error


def _replace_what_stdout_cannot_encode() -> None:
    """Print "?" for a character that stdout's encoding lacks, instead of failing once the work is done.

    On Windows redirected output has an old encoding such as cp1252, which has no "φ". stderr escapes such characters.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's stream is none, and takes every character
        sys.stdout.reconfigure(errors="replace")


def _stdout_is_closed() -> bool:
    """Return whether nobody reads stdout any more; if so, drop what Python would still write to it at exit."""
    try:
        print(flush=True)  # an empty line; a flush alone raises nothing if stdout has no buffer
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
