"""Runs the ``cordon`` command by a clock that is so many days ahead, as time itself would have it.

python tests/ahead.py DAYS COMMAND [ARGUMENT...]
"""

import datetime as dt
import stat
import sys
from pathlib import Path
from typing import Any


def shim(folder: Path, *, days: int) -> Path:
    """Make a ``cordon`` of this kind in a folder, to go first in the PATH."""
    folder.mkdir()
    program = folder / "cordon"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {days} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def _set_ahead(days: int) -> None:
    real = dt.datetime

    class Kind(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, real)

    class Ahead(real, metaclass=Kind):  # type: ignore[misc, valid-type]
        # As large as the real one, which compiled modules ask for.
        __slots__ = ()

        @classmethod
        def now(cls, tz: Any = None) -> dt.datetime:
            return real.now(tz) + dt.timedelta(days=days)

    dt.datetime = Ahead  # type: ignore[misc]


if __name__ == "__main__":
    _set_ahead(int(sys.argv.pop(1)))
    # From where it is installed, not from beside this file.
    sys.path.pop(0)
    from app.cli.main import main

    sys.exit(main())
