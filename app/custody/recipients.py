"""What age seals to: its own keys and those of hardware, SSH keys, and keys that take a plugin's program."""

import re
from collections.abc import Iterable
from typing import Any, Final

import pyrage

PROGRAM: Final = "age-plugin-"
IDENTITY: Final = "AGE-PLUGIN-"
"""How an identity of a plugin begins."""

# Bech32: what stands before the last '1' is a name, and here it is part of that of a program.
_OF_A_PLUGIN: Final = re.compile(r"age1([a-z0-9+_.-]+)1[02-9ac-hj-np-z]{6,}")
_OF_HARDWARE: Final = {"age1tag1": pyrage.tag, "age1tagpq1": pyrage.tagpq}
"""age's own tagged form: sealing to them takes no plugin."""


def recipient(public_key: str) -> Any:  # noqa: ANN401 - pyrage has a class for each kind
    """What pyrage makes of a public key; one of a plugin alone seals nothing yet.

    Raises:
        pyrage.RecipientError, ValueError: it is none.
    """
    if public_key.startswith("ssh-"):
        return pyrage.ssh.Recipient.from_str(public_key)
    for prefix, kind in _OF_HARDWARE.items():
        if public_key.startswith(prefix):
            return kind.Recipient.from_str(public_key)
    if plugin_of(public_key) is not None:
        return pyrage.plugin.Recipient.from_str(public_key)
    return pyrage.x25519.Recipient.from_str(public_key)


def plugin_of(public_key: str) -> str | None:
    """The name of the plugin that it takes to seal to a public key; None if age does so by itself."""
    found = _OF_A_PLUGIN.fullmatch(public_key)
    return None if found is None or public_key.startswith(tuple(_OF_HARDWARE)) else found[1]


def programs_of(public_keys: Iterable[str]) -> tuple[str, ...]:
    """Names of the programs that it takes to seal to all of these; empty if age does so by itself."""
    plugins = {plugin for key in public_keys if (plugin := plugin_of(key)) is not None}
    return tuple(PROGRAM + plugin for plugin in sorted(plugins))
