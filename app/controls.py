"""The controls that keep media in RAM and decoders locked: which there are, and which are in force.

With them stands whether search and hashing are the compiled ones: no protection, and never required.

Each is read from where it holds (the kernel, or what a decoder found by trying), never assumed because it
was asked for. ``cordon doctor``, ``/v1/status``, the start-up line and the metrics all show this one table.
With ``CORDON_STRICT`` a gate does not start while a required one is missing.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app import kernel
from app.custody import plugins
from app.custody.recipients import programs_of
from app.custody.roster import RosterFile
from app.errors import NotReadyError
from app.hashing import engine as hashing_engine
from app.hashing.lock import Lock
from app.hashing.sandbox import Sandbox
from app.matching import engine as matching_engine
from app.settings import Settings

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")

_NO_DECODER: Final = "no decoder has proved it"


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        control: its name, fixed.
        required: whether strict mode insists on it.
        in_force: whether it was found in force.
        detail: what was found, and if it is missing, the mend.
    """

    control: str
    required: bool
    in_force: bool
    detail: str


def controls(sandbox: Sandbox, settings: Settings) -> tuple[Control, ...]:
    """All controls of this process and its decoders, as found now."""
    lock = sandbox.lock if sandbox.alive else None
    return (
        # A decoder that finds one of these three missing does not start.
        _proved("no_new_privileges", lock, "decoders cannot gain privileges"),
        _proved("seccomp", lock, "decoders are held to a list of system calls"),
        _landlock(lock),
        _proved("limits", lock, "decoders are limited in memory, processor time, open and written files"),
        _not_dumpable(lock),
        _memory(lock),
        _network_namespace(lock),
        _core_pattern(),
        _pins(RosterFile(settings.roster_path)),
        _plugins(RosterFile(settings.roster_path)),
        _worker_key(settings),
        _compiled("compiled_search", matching_engine.COMPILED, "look-ups in large banks"),
        _compiled("compiled_hashing", hashing_engine.COMPILED, "pictures"),
    )


def _pins(pins: RosterFile) -> Control:
    name = "custodians_pinned"
    if not pins.path.exists():
        return Control(name, False, False, "nobody is pinned: run 'cordon custodian add'")
    if pins.writable:
        detail = (
            "this process could add a custodian: let another user own the file, and name it in "
            "CORDON_CUSTODIANS"
        )
        return Control(name, False, False, detail)
    return Control(name, False, True, "this process cannot write the file of the custodians")


def _plugins(pins: RosterFile) -> Control:
    name = "custodian_plugins_found"
    try:
        pinned = pins.read_if_there().custodians
    except NotReadyError as error:
        return Control(name, False, False, str(error))
    gone = [
        f"{program} (for {each.name})" for each in pinned for program in plugins.missing([each.public_key])
    ]
    if gone:
        detail = (
            f"not in PATH: {', '.join(gone)}. Nothing can be sealed, so nothing is taken in: install it "
            "where this process finds it, or remove that custodian"
        )
        return Control(name, False, False, detail)
    used = programs_of(each.public_key for each in pinned)
    return Control(
        name, False, True, f"in PATH: {', '.join(used)}" if used else "no custodian's key takes one"
    )


def _worker_key(settings: Settings) -> Control:
    name = "worker_key_out_of_reach"
    mend = (
        "run the worker as another user, or hide its directory from gates, and name the file in "
        "CORDON_FILING_IDENTITY"
    )
    if os.access(settings.worker_key_path, os.R_OK):
        return Control(name, False, False, f"this process can read the worker's key: {mend}")
    if os.access(settings.worker_memory_path, os.W_OK):
        what = "this process can write what the worker remembers of the audit log"
        return Control(name, False, False, f"{what}: {mend}")
    return Control(name, False, True, "this process can read no worker's key where the settings name it")


def _proved(name: str, lock: Lock | None, meaning: str) -> Control:
    return Control(name, True, lock is not None, meaning if lock else _NO_DECODER)


def _landlock(lock: Lock | None) -> Control:
    if lock is None:
        detail = _NO_DECODER
    elif lock.landlock_abi:
        detail = f"ABI {lock.landlock_abi}: decoders can open no file"
    else:
        detail = "not in this kernel, or refused: needs Linux 5.13 or later with Landlock enabled"
    return Control("landlock", True, bool(lock and lock.landlock_abi), detail)


def _not_dumpable(lock: Lock | None) -> Control:
    if kernel.is_dumpable():
        return Control("not_dumpable", True, False, "this process can be dumped and traced")
    detail = "neither this process nor a decoder can be dumped or traced" if lock else _NO_DECODER
    return Control("not_dumpable", True, lock is not None, detail)


def _memory(lock: Lock | None) -> Control:
    name = "memory_locked_or_no_swap"
    swap = _swap()
    if not swap:
        return Control(name, True, True, "nothing can be swapped out: no swap is in use here")
    if lock is not None and lock.memory_locked and _is_memory_locked():
        return Control(name, True, True, "swap is on, and the memory of gate and decoders is locked")
    mend = "turn swap off, or allow this service to lock memory without limit (memlock)"
    return Control(name, True, False, f"{swap}, and memory is not locked: {mend}")


def _network_namespace(lock: Lock | None) -> Control:
    if lock is None:
        detail = _NO_DECODER
    elif lock.own_network:
        detail = "decoders live in a network without any interface"
    else:
        detail = (
            "user namespaces are refused here, as Docker does; seccomp alone keeps decoders off the network"
        )
    return Control("network_namespace", False, bool(lock and lock.own_network), detail)


def _core_pattern() -> Control:
    name = "core_pattern_not_piped"
    try:
        piped = (_PROC / "sys/kernel/core_pattern").read_text().startswith("|")
    except OSError as error:
        return Control(name, False, False, f"cannot be read: {type(error).__name__}")
    if piped:
        return Control(
            name, False, False, "the host pipes core dumps to a program; these processes make none"
        )
    return Control(name, False, True, "the host pipes core dumps to no program")


def _compiled(name: str, compiled: bool, what: str) -> Control:  # noqa: FBT001 - as it was found
    detail = "the compiled loops are in use"
    if not compiled:
        detail = (
            f"the same results, but {what} take several times as long: install Cordon where there is a C "
            "compiler ('make clean setup' does it anew)"
        )
    return Control(name, False, compiled, detail)


def _swap() -> str:
    """What swap this process's memory could go to; empty if none."""
    try:
        areas = (_PROC / "swaps").read_text().splitlines()[1:]
    except OSError as error:
        return f"/proc/swaps cannot be read ({type(error).__name__})"
    if not areas or _cgroup_forbids_swap():
        return ""
    return "swap is on"


def _cgroup_forbids_swap() -> bool:
    """Whether a control group (version 2) that this process is in may use no swap."""
    try:
        memberships = (_PROC / "self/cgroup").read_text()
    except OSError:
        return False
    found = re.search(r"^0::(/.*)$", memberships, re.MULTILINE)
    if found is None:
        return False
    group = _CGROUPS / found[1].lstrip("/")
    while group.is_relative_to(_CGROUPS):
        try:
            if (group / "memory.swap.max").read_text().strip() == "0":
                return True
        except OSError:
            # The root group has no such file, nor has a host without version 2.
            pass
        group = group.parent
    return False


def _is_memory_locked() -> bool:
    """Whether the kernel counts most of this process's address space as locked."""
    status = (_PROC / "self/status").read_text()
    locked, size = (
        int(found[1]) if (found := re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)) else 0
        for name in ("VmLck", "VmSize")
    )
    return locked * 2 > size > 0
