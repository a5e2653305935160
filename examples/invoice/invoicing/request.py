"""The payload, checked: everything wrong with it is said at once, in words a person can act on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from .rates import Country, countries

MAX_ITEMS = 1000
MAX_AMOUNT = Decimal("1000000000")
MAX_DECIMALS = 6
FIRST_YEAR, LAST_YEAR = 2000, 2100  # a date outside is a slip of the keyboard
EXEMPT = Decimal(0)


@dataclass(frozen=True)
class Item:
    """One line of the invoice; `unit_price` is without VAT."""

    description: str
    quantity: Decimal
    unit_price: Decimal
    vat_percent: Decimal


@dataclass(frozen=True)
class InvoiceRequest:
    """A payload that passed every check."""

    number: str
    issued_on: date
    country: Country
    items: tuple[Item, ...]
    discount_percent: Decimal
    payment_days: int


def read_request(payload: dict[str, Any]) -> InvoiceRequest:
    """Return the payload as an InvoiceRequest. Raises ValueError naming every problem."""
    problems = _Problems()
    country = problems.collect(_country, payload.get("country"))
    request = InvoiceRequest(
        number=problems.collect(_text, payload.get("number"), "number"),
        issued_on=problems.collect(_date, payload.get("issued_on"), "issued_on"),
        country=country,
        items=_items(payload.get("items"), country, problems),
        discount_percent=problems.collect(
            _percent, payload.get("discount_percent", 0), "discount_percent"
        ),
        payment_days=problems.collect(_days, payload.get("payment_days", 14), "payment_days"),
    )
    problems.raise_if_any()
    return request


class _Problems:
    """Collects what is wrong, so that a person can mend the payload in one go."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def collect(self, read: Callable[..., Any], *args: Any) -> Any:
        """Return read(*args), or None after noting why it could not be read."""
        try:
            return read(*args)
        except ValueError as exc:
            self._found.append(str(exc))
            return None

    def raise_if_any(self) -> None:
        if self._found:
            raise ValueError("; ".join(self._found))


def _items(value: Any, country: Country | None, problems: _Problems) -> tuple[Item, ...]:
    rows = problems.collect(_rows, value) or []
    return tuple(_item(row, f"items[{i}]", country, problems) for i, row in enumerate(rows))


def _item(row: dict[str, Any], where: str, country: Country | None, problems: _Problems) -> Item:
    return Item(
        description=problems.collect(_text, row.get("description"), f"{where}.description"),
        quantity=problems.collect(_positive, row.get("quantity"), f"{where}.quantity"),
        unit_price=problems.collect(_amount, row.get("unit_price"), f"{where}.unit_price"),
        vat_percent=problems.collect(_vat, row.get("vat_percent"), f"{where}.vat_percent", country),
    )


def _rows(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ITEMS:
        raise ValueError(f"items must be a list of 1 to {MAX_ITEMS} items")
    for i, row in enumerate(value):
        if not isinstance(row, dict):
            raise ValueError(f"items[{i}] must be an object with description, quantity, unit_price")
    return value


def _country(value: Any) -> Country:
    known = countries()
    code = value.upper() if isinstance(value, str) else value
    if not isinstance(code, str) or code not in known:
        raise ValueError(
            f"country must be one of {', '.join(sorted(known))}, but is {_shown(value)}"
        )
    return known[code]


def _vat(value: Any, where: str, country: Country | None) -> Decimal | None:
    """Return the item's VAT rate; without one, the standard rate of the country."""
    if country is None:  # reported already, and without it no rate can be judged
        return None
    if value is None:
        return country.rates[0]
    percent = _number(value, where)
    for rate in (*country.rates, EXEMPT):
        if rate == percent:
            return rate
    rates = ", ".join(str(rate) for rate in country.rates)
    raise ValueError(
        f"{where}: {country.name} has no VAT rate of {percent} %; use {rates}, or 0 if exempt"
    )


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} must be a text that is not empty")
    return value.strip()


def _date(value: Any, where: str) -> date:
    try:
        day = date.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(
            f'{where} must be a date such as "2026-03-31", but is {_shown(value)}'
        ) from None
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(f"{where} must lie in the years {FIRST_YEAR} to {LAST_YEAR}")
    return day


def _number(value: Any, where: str) -> Decimal:
    """Return a JSON number, or a text such as "19.90", as a Decimal."""
    number = _decimal(value)
    if number is None or not number.is_finite():
        raise ValueError(
            f'{where} must be a number such as 12.5 or "12.50", but is {_shown(value)}'
        )
    if int(number.as_tuple().exponent) < -MAX_DECIMALS:
        raise ValueError(f"{where} must have at most {MAX_DECIMALS} decimals")
    return number


def _decimal(value: Any) -> Decimal | None:
    # bool is an int in Python; str() of a float is the short form a person typed.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return Decimal(str(value).strip())
    except InvalidOperation:
        return None


def _amount(value: Any, where: str) -> Decimal:
    number = _number(value, where)
    if not 0 <= number <= MAX_AMOUNT:
        raise ValueError(f"{where} must be between 0 and {MAX_AMOUNT:,}, but is {_shown(value)}")
    return number


def _positive(value: Any, where: str) -> Decimal:
    number = _amount(value, where)
    if number == 0:
        raise ValueError(f"{where} must be more than 0")
    return number


def _percent(value: Any, where: str) -> Decimal:
    number = _number(value, where)
    if not 0 <= number <= 100:
        raise ValueError(f"{where} must be between 0 and 100, but is {_shown(value)}")
    return number


def _days(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 365:
        raise ValueError(
            f"{where} must be a whole number between 0 and 365, but is {_shown(value)}"
        )
    return value


def _shown(value: Any) -> str:
    """Return what was sent as JSON, shortened, for an error message."""
    text = "missing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."
