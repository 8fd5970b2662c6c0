"""Untrusted XML read safely: bounded, no document type, no entities, no network, no great depth.

Bytes go in, never text: the service has been seen to declare one charset in its header and another inside.
"""

from typing import Final

from lxml import etree

MAX_BYTES: Final = 1024 * 1024


class UnreadableError(Exception):
    """It is no XML that Cordon reads; the message says what kind of trouble, and nothing of the content."""


def read(untrusted: bytes) -> etree._Element:
    """The root of a document.

    Raises:
        UnreadableError: it is empty, too large, no well-formed XML, or has a document type or entities.
    """
    if not untrusted.strip():
        raise UnreadableError("empty")
    if len(untrusted) > MAX_BYTES:
        raise UnreadableError("too large")
    # libxml2 itself ends at a depth of 256 and at ten million bytes of text unless huge_tree is set.
    parser = etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        dtd_validation=False,
        no_network=True,
        huge_tree=False,
        recover=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(untrusted, parser)
    except etree.XMLSyntaxError:
        raise UnreadableError("not well-formed") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise UnreadableError("has a document type")
    return root
