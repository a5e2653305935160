"""The arithmetic, in Decimal: binary floats cannot hold 0.10 exactly."""

from collections import defaultdict
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from .request import InvoiceRequest, Item

CENT = Decimal("0.01")


@dataclass(frozen=True)
class VatSum:
    """What is taxed at one rate, and the tax on it."""

    vat_percent: Decimal
    net: Decimal
    vat: Decimal


@dataclass(frozen=True)
class Totals:
    """The sums of an invoice, each rounded to the cent; net + vat = gross."""

    line_nets: tuple[Decimal, ...]
    discount: Decimal
    vat_sums: tuple[VatSum, ...]
    net: Decimal
    vat: Decimal
    gross: Decimal


def calculate(request: InvoiceRequest) -> Totals:
    """Return the totals; each line is rounded, and VAT is taken once per rate on the sum."""
    line_nets = tuple(_line_net(item) for item in request.items)
    share = 1 - request.discount_percent / 100

    by_rate: defaultdict[Decimal, Decimal] = defaultdict(Decimal)
    for item, line_net in zip(request.items, line_nets, strict=True):
        by_rate[item.vat_percent] += line_net
    vat_sums = tuple(
        _vat_sum(rate, to_cent(by_rate[rate] * share)) for rate in sorted(by_rate, reverse=True)
    )

    net = sum((entry.net for entry in vat_sums), Decimal(0))
    vat = sum((entry.vat for entry in vat_sums), Decimal(0))
    discount = sum(line_nets, Decimal(0)) - net
    return Totals(line_nets, discount, vat_sums, net, vat, net + vat)


def to_cent(amount: Decimal) -> Decimal:
    """Round to the cent, half a cent up, as invoices do."""
    return amount.quantize(CENT, ROUND_HALF_UP)


def _line_net(item: Item) -> Decimal:
    return to_cent(item.quantity * item.unit_price)


def _vat_sum(rate: Decimal, net: Decimal) -> VatSum:
    return VatSum(rate, net, to_cent(net * rate / 100))
