"""Measurements; each script prints ratios of things measured side by side in one run."""
