"""An invoice calculator: `request` reads the payload, `rates` the VAT table, `totals` adds up."""
