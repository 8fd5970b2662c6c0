"""NCMEC's own schema, where an operator has fetched it: a second judge beside ``grammar``.

It carries no licence and comes with credentials, so Cordon ships no copy.
"""

from datetime import datetime
from pathlib import Path

from lxml import etree

from app.filing.cybertip import grammar
from app.filing.cybertip.reading import UnreadableError, read
from app.settings import SettingsError


class Schema:
    """A schema that documents are validated with (libxml2).

    Args:
        text: of the schema.

    Raises:
        UnreadableError: on construction, if it is no XML schema.
    """

    def __init__(self, text: bytes) -> None:
        self.text = text
        try:
            self._validator = etree.XMLSchema(read(text))
        except etree.XMLSchemaParseError:
            raise UnreadableError("no XML schema") from None

    def problem(self, root: etree._Element) -> str | None:
        """Where a document is wrong first, without its values; None if it is good."""
        if self._validator.validate(root):
            return None
        # libxml2's own message repeats the value.
        path = str(self._validator.error_log[0].path)  # type: ignore[index]
        return f"{path.lstrip('/')} is not as NCMEC's schema has it"


def refusals(root: etree._Element, now: datetime, schema: Schema | None) -> tuple[str, ...]:
    """What the authority would refuse of a report, in our words and without its values; nothing if none.

    Args:
        root: the document's root.
        now: every time in it must lie before.
        schema: NCMEC's, where there is one; it is asked of what the rules find nothing wrong with.
    """
    if wrong := grammar.problems(root, now):
        return tuple(map(str, wrong))
    by_schema = schema.problem(root) if schema is not None else None
    return (by_schema,) if by_schema is not None else ()


def load(path: Path) -> Schema:
    """Read a schema's file.

    Raises:
        SettingsError: it cannot be read, or is none.
    """
    try:
        return Schema(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"CORDON_CYBERTIP_XSD: {path} cannot be read: {error.strerror}") from None
    except UnreadableError as error:
        raise SettingsError(f"CORDON_CYBERTIP_XSD: {path} is {error}") from None
