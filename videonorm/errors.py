"""The one error that is the user's to mend: a sentence with the name, the value and the requirement."""


class UserError(ValueError):
    """A mistake in an option, a file or a configuration. The command line prints it and exits with code 2."""
