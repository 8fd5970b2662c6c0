"""Watch media go through a gate: ``make demo``."""
