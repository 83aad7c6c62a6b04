"""The error of a user's input: commands print its one line and exit with status 2."""


class UserError(ValueError):
    """Something given is wrong; the message is one line that names it and what was expected."""
