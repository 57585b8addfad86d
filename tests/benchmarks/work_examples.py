"""What a process of benchmarks/environments.py may be given to do."""

from __future__ import annotations

import os
import time
from typing import Any


def by_name(env: str) -> dict[str, Any]:
    if env == "raises":
        raise ValueError("in two\nlines")
    if env == "dies":
        os._exit(7)
    if env == "hangs":
        time.sleep(60)
    return {"backend": env}
