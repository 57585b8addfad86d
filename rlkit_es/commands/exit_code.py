"""How every command ends: well, with one line that says what is wrong, or as it was asked to."""

from __future__ import annotations

import errno
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

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        _print_nowhere()
        return EXIT_UNREAD
    except OSError as error:
        if error.errno not in _FULL:
            raise
        # Of a file of the library's own it is a UserError, which names the file.
        print(f"error: cannot write standard output: {error.strerror}", file=sys.stderr)
        _print_nowhere()
        return EXIT_USER_ERROR
    return 0


def _unread() -> bool:
    """Whether standard output is a pipe without a reader."""
    output = select.poll()
    output.register(sys.stdout)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _print_nowhere() -> None:
    """What is left in standard output cannot be written: it would be tried again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
