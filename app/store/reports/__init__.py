"""Reports from the seal to the tombstone: their files, states, decisions, filing and removal."""
