"""A match → a sealed, metadata-only report."""
