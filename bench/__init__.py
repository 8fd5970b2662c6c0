"""Measures Cordon beside named peers: ``make bench``."""
