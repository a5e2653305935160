"""A bar chart as SVG: groups of bars on a logarithmic scale, each with its number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LABEL_WIDTH, _VALUE_WIDTH = 860, 230, 90
_BAR_HEIGHT, _BAR_GAP, _GROUP_GAP, _TOP = 14, 4, 34, 56
_OURS, _THEIRS, _TEXT, _LINE = "#1f6f5c", "#9aa3ad", "#1d2228", "#e3e6ea"


@dataclass(frozen=True)
class Bar:
    """One bar; `is_ours` colours it."""

    label: str
    value: float
    is_ours: bool


@dataclass(frozen=True)
class Group:
    """Bars below one title."""

    title: str
    bars: Sequence[Bar]


def draw(title: str, note: str, groups: Sequence[Group]) -> str:
    """Return the SVG of bars in milliseconds. Raises ValueError where there are none above 0."""
    values = [bar.value for group in groups for bar in group.bars]
    if not values or min(values) <= 0:
        raise ValueError("a logarithmic scale needs values above 0")
    low, high = decades(values)
    height = _TOP + sum(_group_height(group) for group in groups) + 16
    parts = [_text(12, 22, title, size=16), _text(12, 42, note, colour="#5b6570")]
    parts += _grid(low, high, height)
    top = _TOP
    for group in groups:
        parts += _group(group, top, low, high)
        top += _group_height(group)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="sans-serif" role="img">'
    )
    background = f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", background, *parts, "</svg>\n"])


def decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten between which all values lie; they differ by one at least."""
    low = math.floor(math.log10(min(values)))
    return low, max(math.ceil(math.log10(max(values))), low + 1)


def position(value: float, low: int, high: int) -> float:
    """Return how far along the scale a value lies, from 0 to 1."""
    return (math.log10(value) - low) / (high - low)


def _group_height(group: Group) -> int:
    return _GROUP_GAP + len(group.bars) * (_BAR_HEIGHT + _BAR_GAP)


def _span() -> int:
    return _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH


def _grid(low: int, high: int, height: int) -> list[str]:
    parts = []
    for power in range(low, high + 1):
        x = _LABEL_WIDTH + _span() * (power - low) / (high - low)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{height - 18}" stroke="{_LINE}"/>')
        parts.append(_text(x + 2, height - 6, f"{10.0**power:g} ms", size=10, colour="#5b6570"))
    return parts


def _group(group: Group, top: int, low: int, high: int) -> list[str]:
    parts = [_text(12, top + 22, group.title, size=13)]
    for number, bar in enumerate(group.bars):
        y = top + _GROUP_GAP + number * (_BAR_HEIGHT + _BAR_GAP) - 4
        width = max(1.0, _span() * position(bar.value, low, high))
        colour = _OURS if bar.is_ours else _THEIRS
        parts.append(_text(24, y + 11, bar.label, size=11))
        parts.append(
            f'<rect x="{_LABEL_WIDTH}" y="{y}" width="{width:.1f}" '
            f'height="{_BAR_HEIGHT}" fill="{colour}"/>'
        )
        parts.append(_text(_LABEL_WIDTH + width + 5, y + 11, f"{bar.value:.3g} ms", size=11))
    return parts


def _text(x: float, y: float, text: str, *, size: int = 12, colour: str = _TEXT) -> str:
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
