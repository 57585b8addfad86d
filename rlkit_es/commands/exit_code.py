"""How every command ends: well, with one line that says what is wrong, or as it was asked to."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

from rlkit_es.errors import UserError
from rlkit_es.runs.interruption import Interrupted, interruptible
from rlkit_es.runs.launch import AlreadySaidError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 1


def exit_code(command: Callable[[], None]) -> int:
    """Carry out ``command``: 0, 2 where the user can mend it, 130 or 143 where it was interrupted.

    1 where nobody reads what it prints any more, as when ``head`` has had its lines.
    """
    try:
        with interruptible():
            try:
                command()
            finally:
                sys.stdout.flush()
    except AlreadySaidError:
        return EXIT_USER_ERROR
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as interrupted:
        print(f"interrupted by {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:  # outside the main thread's handlers
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        if not _unread():
            raise
        return EXIT_UNREAD
    return 0


def _unread() -> bool:
    """Whether standard output is a pipe without a reader; what is left in it goes nowhere then."""
    output = select.poll()
    output.register(sys.stdout)
    unread = any(event & select.POLLERR for _, event in output.poll(0))
    if unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return unread
