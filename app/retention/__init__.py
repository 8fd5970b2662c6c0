"""How long reports are kept, and that they are gone afterwards."""
