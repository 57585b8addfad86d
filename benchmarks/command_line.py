"""What the command lines of the benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {message}; --help lists the arguments\n")

    def parse_measurement(self, arguments: Sequence[str] | None, committed: Path) -> argparse.Namespace:
        """`parse_args` with ``--output``, None where results are to be printed alone.

        Args:
            arguments: of the command line; None: this process's.
            committed: file of the committed results, which only a measurement with every default replaces.
        """
        self.add_argument(
            "--output",
            type=Path,
            help=f"default: {committed.name} of the committed results; with other arguments none",
        )
        options = self.parse_args(arguments)
        if vars(options) == vars(self.parse_args([])):
            options.output = committed
        return options


def count(text: str) -> int:
    """A whole number of at least 1, for ``add_argument(type=...)``."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
