"""Banks, their signals, and what sources and people say of single entries, as the database holds them."""
