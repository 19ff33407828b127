"""What goes wrong on the user's side, said in one line: expected, got, what to do."""

__all__ = ["NoExactDensity", "UserError"]


class UserError(ValueError):
    """A mistake in the input; the command line prints the message and exits with status 2."""


class NoExactDensity(UserError):
    """Raised by `log_prob` where a system has no exact density; the message names what it has."""
