"""The one exception for what a user can mend, and how a script ends on it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Bad input, told in one message: the file or field, what was got, what was expected, what to do."""


@contextlib.contextmanager
def exit_with_message() -> Iterator[None]:
    """Ends the process with exit code 2 and the message alone when the body raises `UserError`."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
