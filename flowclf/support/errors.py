"""What goes wrong on the user's side, said in one line: expected, got, what to do."""

__all__ = ["NoExactDensity", "UserError", "first_line", "printable"]


class UserError(ValueError):
    """A mistake in the input; the command line prints the message and exits with status 2."""

    def __str__(self) -> str:
        """One line that a terminal can show, whatever the names of files are."""
        return printable(super().__str__())


class NoExactDensity(UserError):
    """Raised by `log_prob` where a system has no exact density; the message names what it has."""


def printable(text: str) -> str:
    """On one line that a terminal can show: all else as Python writes it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def first_line(error: Exception) -> str:
    """What an error of other packages says first, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
