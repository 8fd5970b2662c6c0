"""The record: the audit log, its checkpoints, and what a worker remembers of both."""
