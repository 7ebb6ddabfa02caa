"""The one exception for what a user can mend."""


class UserError(Exception):
    """Bad input, told in one message: the file or field, what was got, what was expected, what to do."""
