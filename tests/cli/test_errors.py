from __future__ import annotations

import errno

import pytest
import typer
from typer.testing import CliRunner, Result

from emberfleet.cli.errors import CommandGroup, describe_error
from emberfleet.core.errors import EmberError, FormatError


def run_command_raising(error: BaseException) -> Result:
    app = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)

    @app.callback()
    def start() -> None:
        pass

    @app.command()
    def fail() -> None:
        raise error

    return CliRunner().invoke(app, ["fail"])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FormatError("bundle 'a.ember': ends at byte 7"), "error: bundle 'a.ember': ends at byte 7"),
        (FormatError("two\n  lines"), "error: two lines"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "no/such.ember"),
            "error: no/such.ember: No such file or directory",
        ),
        (OSError(errno.EADDRINUSE, "Address already in use"), "error: Address already in use"),
        (
            OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"),
            "error: a -> b: Invalid cross-device link",
        ),
        (
            ModuleNotFoundError("No module named 'starlette'", name="starlette.routing"),
            "error: this needs the library 'starlette.routing', which is not installed: "
            "pip install 'emberfleet[server]'",
        ),
    ],
)
def test_what_a_user_can_cause_is_one_sentence_and_code_two(error: Exception, sentence: str) -> None:
    result = run_command_raising(error)
    assert result.exit_code == 2
    assert result.stderr == sentence + "\n"
    assert result.stdout == ""


def test_interrupt_is_code_130_without_traceback() -> None:
    result = run_command_raising(KeyboardInterrupt())
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_traceback_is_shown_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBERFLEET_TRACEBACK", "1")
    result = run_command_raising(FormatError("ends early"))
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: ends early\n")


def test_fault_of_ours_keeps_its_traceback() -> None:
    result = run_command_raising(ZeroDivisionError("a fault"))
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_missing_library_of_no_extra_is_a_fault_of_ours() -> None:
    assert describe_error(ModuleNotFoundError("No module named 'nosuch'", name="nosuch")) is None


def test_closed_pipe_is_left_to_the_command_line_library() -> None:
    assert describe_error(BrokenPipeError(errno.EPIPE, "Broken pipe")) is None


def test_every_error_family_has_a_sentence() -> None:
    families = [
        family for family in EmberError.__subclasses__() if family.__module__ == EmberError.__module__
    ]
    assert len(families) > 5
    for family in families:
        assert describe_error(family("what was found")) == "what was found"
