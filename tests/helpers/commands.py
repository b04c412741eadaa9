"""Running `bcos-peft` as a user does."""

from typer.testing import CliRunner

from bcos_peft.cli import app


def run(*arguments, **kwargs):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "100"}, **kwargs)


def refused(*arguments, **kwargs):
    """What is said of a refusal: on stderr, without a traceback, with exit code 2."""
    result = run(*arguments, **kwargs)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    return result.stderr
