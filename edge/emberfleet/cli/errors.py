"""The one place where an error becomes a sentence on the terminal and an exit code.

=====================================================  ==========================================  ====
raised                                                 shown                                       exit
=====================================================  ==========================================  ====
`EmberError`: a mistake the user can mend              its message                                 2
`OSError`: a path, port or disk that does not serve    the path and the system's reason            2
a missing library of one of Emberfleet's extras        which extra to install, and how             2
Ctrl-C                                                 "interrupted"                               130
anything else: a fault of Emberfleet                   the traceback, to be reported               1
=====================================================  ==========================================  ====

``EMBERFLEET_TRACEBACK=1`` shows the traceback of the first four too.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from emberfleet.core.errors import EmberError

EXIT_USER = 2
EXIT_INTERRUPTED = 130


class CommandGroup(TyperGroup):
    """A group of commands whose expected errors end as one sentence on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command with its errors turned into sentences."""
        with errors_as_sentences():
            return super().invoke(ctx)


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn what a user can cause into one sentence on stderr and the exit code of the table above.

    Raises:
        typer.Exit: With the exit code, after the sentence was written.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        _say("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from interrupt
    except (EmberError, OSError, ImportError) as error:
        sentence = describe_error(error)
        if sentence is None:
            raise
        _say(f"error: {sentence}")
        raise typer.Exit(EXIT_USER) from error


def describe_error(error: Exception) -> str | None:
    """One line that says what went wrong and, where it is known, what to do; None for a fault of ours."""
    if isinstance(error, EmberError):
        sentence = str(error)
    elif isinstance(error, ImportError):
        sentence = _missing_extra(error)
    elif isinstance(error, OSError) and error.errno != errno.EPIPE:
        sentence = _system_error(error)
    else:
        return None
    return " ".join(sentence.split()) or None


def _system_error(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    paths = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' -> '.join(paths)}: {reason}" if paths else reason


def _missing_extra(error: ImportError) -> str:
    from emberfleet.runtime.extras import extra_of_library, install_extra

    extra = extra_of_library(error.name or "")
    if extra is None:
        return ""
    return f"this needs the library '{error.name}', which is not installed: {install_extra(extra)}"


def _say(sentence: str) -> None:
    if os.environ.get("EMBERFLEET_TRACEBACK") == "1":
        traceback.print_exc(file=sys.stderr)
    typer.secho(sentence, err=True, fg=typer.colors.RED if sentence.startswith("error") else None)
