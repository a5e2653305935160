"""Reading JSON that a stranger wrote: request bodies and the reports of agents.

Python's `json` takes more than JSON allows (NaN, Infinity, lone surrogates) and fails in several
ways on absurd input; `parse_json` takes RFC 8259 only and fails in one way.
"""

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 100


class StrictJsonError(ValueError):
    """The text is no JSON value that this system accepts; the message says why in one sentence."""


def parse_json(text: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Read one UTF-8 JSON value of at most `max_depth` nested containers.

    Raises StrictJsonError. The caller bounds the size.
    """
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as exc:
        raise StrictJsonError(f"it is not UTF-8 text (byte {exc.start})") from exc
    except RecursionError as exc:
        raise StrictJsonError(_too_deep(max_depth)) from exc
    except json.JSONDecodeError as exc:
        raise StrictJsonError(f"{exc.msg} at line {exc.lineno} column {exc.colno}") from exc
    except StrictJsonError:
        raise
    except ValueError as exc:
        # int() refuses more than 4,300 digits (sys.set_int_max_str_digits).
        raise StrictJsonError("a number has too many digits") from exc
    _check(value, max_depth)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise StrictJsonError(f"{name} is not a JSON number")


def _too_deep(max_depth: int) -> str:
    return f"it is nested more than {max_depth} levels deep"


def _check(value: Any, max_depth: int) -> None:
    """Walk without recursion: depth, lone surrogates, numbers that overflowed to infinity."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            else:
                _check_scalar(item)
                continue
            if depth == max_depth:
                raise StrictJsonError(_too_deep(max_depth))
        level, depth = below, depth + 1


def _check_scalar(item: Any) -> None:
    if isinstance(item, str):
        try:
            item.encode()  # UTF-8 has no surrogates (RFC 3629)
        except UnicodeEncodeError as exc:
            raise StrictJsonError("a text holds half of a surrogate pair") from exc
    elif isinstance(item, float) and not math.isfinite(item):
        raise StrictJsonError("a number is too large")
