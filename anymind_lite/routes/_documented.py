"""Views beside their documentation: what a decorator adds for the document alone is not called."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

View = Callable[..., Any]

# By identity: what wraps a view takes over its attributes, and with such a mark a wrapper that
# signs in would be left out too. (test_views_keep_their_guards)
_CALLED: "WeakKeyDictionary[View, View]" = WeakKeyDictionary()


def documented(view: View, document: Callable[[View], View], call: View | None = None) -> View:
    """Document a view; requests call `call`, or the view itself."""
    with_document = document(view)
    _CALLED[with_document] = called(view) if call is None else call
    return with_document


def called(view: View) -> View:
    """Return what requests call of a view."""
    return _CALLED.get(view, view)
