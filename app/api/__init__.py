"""The HTTP entrance: reads requests, calls the pipeline, writes answers."""
