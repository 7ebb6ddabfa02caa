"""How every script starts and ends: flags in, one message out when the input is bad."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping

from absl import app, flags, logging

from pcejax import allocator, interrupts
from pcejax.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`.

    Ends with exit code 2 and the message alone on a `UserError`, and with `interrupts.EXIT_CODE` where it was asked to
    stop.
    """
    run_command({"": main})


def run_command(commands: Mapping[str, Callable[[], None]]) -> None:
    """As `run`, of the command that the one word beside the flags names; "" is the one of no word."""

    def start(words: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        allocator.keep_freed_memory()
        command = " ".join(words[1:])
        if command not in commands:
            told = " or ".join(name or "flags alone, each --name=value" for name in commands)
            raise UserError(f"got {command!r} beside the flags; expected {told}")
        commands[command]()

    interrupts.install()
    try:
        app.run(start, flags_parser=_parse)
    except interrupts.Interrupted as stop:
        print(f"stopped {stop}; the same command goes on", file=sys.stderr)
        _exit(interrupts.EXIT_CODE)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        _exit(2)
    except Exception:
        if not _is_one_of_several():
            raise
        traceback.print_exc()
        print("error: above; where another process ended first, its message has the cause", file=sys.stderr)
        _exit(1)


def _exit(code: int) -> None:
    if _is_one_of_several():
        # At its exit JAX would wait for the other processes, which wait for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _is_one_of_several() -> bool:
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = app.parse_flags_with_usage(argv)
        if "config" in flags.FLAGS and flags.FLAGS.config is not None:
            flags.FLAGS.config.items()  # a file that failed to load raises at the first look
        return rest
    except (AttributeError, KeyError) as error:  # no such field or section; ml_collections names its nearest
        cause = error.args[0]  # the message, or the KeyError that has it
        text = str(cause.args[0] if isinstance(cause, KeyError) else cause).replace("\n", "; ")
        raise UserError(f"config: no field {text}") from error
    except OSError as error:
        raise UserError(f"config: {' '.join(str(error).split())}") from error
