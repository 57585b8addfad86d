"""Links that leave docs/: they work on GitHub as they are, and mkdocs cannot follow them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_ELSEWHERE = ("http:", "https:", "mailto:", "/")


def to_repository(markdown: str, page: str, root: Path, repository: str | None) -> str:
    """The page with its links to what is in the checkout, but is no file of docs/, led to the repository.

    A link to what is not there stays as it is, for mkdocs to complain of.

    Args:
        markdown: of the page.
        page: its path within docs/.
        root: of the checkout.
        repository: its address on the web; None: of such links only the text is left.
    """

    def rewritten(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link["target"]))
        place = root / path
        in_docs = path.startswith("docs/") and place.is_file()
        if link["target"].startswith(_ELSEWHERE) or in_docs or not place.exists():
            return link[0]
        if repository is None:
            return link["text"]
        kind = "tree" if place.is_dir() else "blob"
        return f"[{link['text']}]({repository.rstrip('/')}/{kind}/HEAD/{path}{link['anchor'] or ''})"

    return _LINK.sub(rewritten, markdown)
