"""URL → untrusted bytes, with every hop checked and pinned. Nothing else here dials out."""
