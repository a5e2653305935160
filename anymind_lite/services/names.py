"""The names that people give to themselves, their agents and their API keys."""

import unicodedata

from anymind_lite.errors import InvalidInput

MAX_NAME_CHARS = 200

_CONTROL_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # controls, surrogates, line and paragraph ends


def checked_name(name: str) -> str:
    """Return a name of 1 to 200 characters on one line, not all blank; raises InvalidInput."""
    if not name.strip():
        raise InvalidInput("name must not be empty")
    if len(name) > MAX_NAME_CHARS:
        raise InvalidInput(f"name must have at most {MAX_NAME_CHARS} characters")
    if has_control_characters(name):
        raise InvalidInput("name must not contain control characters")
    return name


def has_control_characters(text: str) -> bool:
    """Tell whether a text holds a line end or another control character.

    Joiners are none: emoji, Persian and Hindi are written with them.
    """
    return any(unicodedata.category(char) in _CONTROL_CATEGORIES for char in text)
