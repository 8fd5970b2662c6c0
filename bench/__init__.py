"""How fast Cordon is beside named peers: ``make bench``; what it finds: ``make bench-detection``."""
