"""Signals and banks → matches, exactly, on immutable memory-mapped files."""
