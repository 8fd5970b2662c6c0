"""Logs on stderr: ids, codes, counts and durations; JSON for machines, one line of text on a terminal.

At any level, no line holds a URL, a host, a hash, a file name or a context. Two rules make that so:

- Cordon's own lines are a fixed event name and fields of plain types, given by ``event``.
- Lines of libraries are reduced to who spoke and where: their texts are written for debugging, and some
  (httpcore's, for one) carry hosts and headers. Exceptions are reduced to their type and code locations.
"""

import errno
import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, TextIO

Field = str | int | float | bool | None

_OWN: Final = "app"
_FIELDS: Final = "cordon_fields"


def event(logger: logging.Logger, level: int, name: str, /, **fields: Field) -> None:
    """Log one event. ``name`` is a fixed text; ``fields`` hold ids, codes, counts and seconds only."""
    if logger.isEnabledFor(level):
        # Made here, since ``Logger.log`` looks for the line that called it, which is never told.
        logger.handle(logger.makeRecord(logger.name, level, "", 0, name, (), None, extra={_FIELDS: fields}))


def failure(logger: logging.Logger, name: str, error: BaseException, /, **fields: Field) -> None:
    """Log an error by its type, the system's name for it, and the code it came through; never by its text."""
    logger.error(name, extra={_FIELDS: fields | {"error": kind_of(error), "at": location(error)}})


def kind_of(error: BaseException) -> str:
    """What kind of error it is, and the system's name for it: ``OSError, ENOSPC``."""
    kind = type(error).__name__
    code = errno.errorcode.get(error.errno) if isinstance(error, OSError) and error.errno else None
    return f"{kind}, {code}" if code else kind


def location(error: BaseException) -> str:
    """The innermost code locations of an error, as ``file:line`` joined by ``<``."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send all logs to a stream: stderr by default, readable text if that is a terminal."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(_Text() if target.isatty() else _Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries may warn; what they say below that is theirs, and never ours to print.
    root.setLevel(logging.WARNING)
    logging.getLogger(_OWN).setLevel(level.upper())
    for name in ("httpx", "httpcore", "asyncio", "sqlalchemy", "uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers[:] = []
        library.propagate = True
        library.setLevel(logging.WARNING)
    sys.excepthook = _report_uncaught


def _report_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    failure(logging.getLogger(_OWN), "uncaught", error.with_traceback(trace))


def _told(record: logging.LogRecord) -> tuple[str, dict[str, Field]]:
    if record.name == _OWN or record.name.startswith(f"{_OWN}."):
        fields: dict[str, Field] = dict(getattr(record, _FIELDS, {}))
        return record.msg if isinstance(record.msg, str) else "event", fields
    where = f"{record.filename}:{record.lineno}"
    fields = {"library": record.name, "at": where}
    if record.exc_info and record.exc_info[1] is not None:
        fields |= {"error": type(record.exc_info[1]).__name__, "error_at": location(record.exc_info[1])}
    return "library_message", fields


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        name, fields = _told(record)
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": moment.replace("+00:00", "Z"), "level": record.levelname.lower(), "event": name}
        return json.dumps(line | fields)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        name, fields = _told(record)
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        told = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
        return f"{moment} {record.levelname.lower():<7} {name} {told}".rstrip()
