"""The texts and word lists shipped in this folder."""

import json
from pathlib import Path
from typing import Any

# Files shipped with the agent are found from the module's own path: the working folder is an
# empty scratch folder.
FOLDER = Path(__file__).parent
DOCUMENTS = FOLDER / "documents"


def document_names() -> list[str]:
    """Return the names that payload["document"] may have."""
    return sorted(_index())


def read_document(name: str) -> str:
    """Return a shipped text. Raises KeyError for a name that is not in the index."""
    # Only names of the index become paths, so that "../secret" cannot.
    _index()[name]
    return (DOCUMENTS / f"{name}.txt").read_text(encoding="utf-8")


def about_document(name: str) -> dict[str, Any]:
    """Return title, author, year, licence and source of a shipped text."""
    about: dict[str, Any] = _index()[name]
    return about


def stop_words() -> frozenset[str]:
    """Return the words that are too common to be worth counting."""
    lines = (FOLDER / "stop_words.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def _index() -> dict[str, dict[str, Any]]:
    index: dict[str, dict[str, Any]] = json.loads(
        (DOCUMENTS / "index.json").read_text(encoding="utf-8")
    )
    return index
