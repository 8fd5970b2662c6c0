"""What a log line tells of an error: enough to act on, and no text that could hold a value."""

import errno
import io
import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from app import log

NAMED = "/srv/a-name-that-tells-something"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    written = io.StringIO()
    log.configure("info", written)
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook = hook


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), NAMED), "OSError, ENOSPC"),
        (PermissionError(errno.EACCES, "denied", NAMED), "PermissionError, EACCES"),
        (OSError(NAMED), "OSError"),
        (ValueError(NAMED), "ValueError"),
    ],
)
def test_an_error_is_told_by_its_kind_and_the_systems_name_for_it(
    stream: io.StringIO, error: Exception, told: str
) -> None:
    """A full disk can be told from one that may not be written; no path, and no text."""
    log.failure(logging.getLogger("app.test"), "failed", error, generation=7)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["error"], line["generation"]) == ("failed", told, 7)
    assert NAMED not in stream.getvalue()
