"""What mkdocs calls while it builds the site."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from repository_links import to_repository
from settings_page import settings_page

_ROOT = Path(__file__).parents[2]
_MARKER = "<!-- settings -->"


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Fill in the settings, and have links out of docs/ lead to the repository."""
    filled = markdown.replace(_MARKER, settings_page()) if _MARKER in markdown else markdown
    return to_repository(filled, page.file.src_uri, _ROOT, config.repo_url or None)
