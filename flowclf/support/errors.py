"""Errors of the user's making, told in one line: expected, got, what to do."""

__all__ = ["NoExactDensity", "UserError", "first_line", "printable"]


class UserError(ValueError):
    """Mistake in the input; the command line prints the message and exits with status 2."""

    def __str__(self) -> str:
        """Return the message as one printable line, whatever file names it quotes."""
        return printable(super().__str__())


class NoExactDensity(UserError):
    """Error of `log_prob` where a system has no exact density; the message names what it has."""


def printable(text: str) -> str:
    """Return text as one line that a terminal can show, other characters escaped as by repr."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
