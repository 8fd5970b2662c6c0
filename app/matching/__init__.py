"""Signals × entries → matches, exactly, on immutable memory-mapped files."""
