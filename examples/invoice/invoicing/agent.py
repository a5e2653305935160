"""The entrypoint: a payload in, the invoice out."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from .request import InvoiceRequest, read_request
from .totals import Totals, calculate, to_cent


def handle(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the invoice with its totals; amounts are texts such as "19.90", exact to the cent.

    Raises ValueError, naming every problem, for a payload that is no invoice.
    """
    request = read_request(payload)
    totals = calculate(request)
    print(f"invoice {request.number}: {len(request.items)} items, gross {totals.gross}")
    return _invoice_json(request, totals)


def _invoice_json(request: InvoiceRequest, totals: Totals) -> dict[str, Any]:
    return {
        "number": request.number,
        "issued_on": request.issued_on.isoformat(),
        "due_on": (request.issued_on + timedelta(days=request.payment_days)).isoformat(),
        "country": request.country.name,
        "currency": request.country.currency,
        "items": [
            {
                "description": item.description,
                "quantity": _plain(item.quantity),
                "unit_price": _plain(item.unit_price),
                "vat_percent": _plain(item.vat_percent),
                "net": _money(net),
            }
            for item, net in zip(request.items, totals.line_nets, strict=True)
        ],
        "discount_percent": _plain(request.discount_percent),
        "discount": _money(totals.discount),
        "vat_by_rate": [
            {
                "vat_percent": _plain(entry.vat_percent),
                "net": _money(entry.net),
                "vat": _money(entry.vat),
            }
            for entry in totals.vat_sums
        ],
        "net": _money(totals.net),
        "vat": _money(totals.vat),
        "gross": _money(totals.gross),
    }


def _money(amount: Decimal) -> str:
    return str(to_cent(amount))


def _plain(number: Decimal) -> str:
    """Return the number as typed, never in powers of ten: "3", "12.5"."""
    return f"{number:f}"
