"""``python -m rlkit_es``: the same as ``rlkit-es``."""

import sys

from rlkit_es.cli import main

if __name__ == "__main__":
    sys.exit(main())
