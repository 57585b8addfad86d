"""What the command lines of the benchmarks share."""

from __future__ import annotations

import argparse
from typing import NoReturn

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {message}; --help lists the arguments\n")


def count(text: str) -> int:
    """A whole number of at least 1, for ``add_argument(type=...)``."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
