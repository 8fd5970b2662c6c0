"""Programs run as a container runtime would run them, without one at hand.

``contained`` gives the command line of a program that runs as nobody, without a single capability, with no
way to gain any, on a read-only root file system, and refused new namespaces as Docker's seccomp profile
refuses them. ``as_user`` gives that of one which runs as another user, and is free otherwise. ``refusing``
gives that of one which the kernel refuses any calls: a kernel or container that lacks something. The first
two need root, to build the mounts in a namespace of their own; the last nothing.
"""

import errno
import os
import shlex
import shutil
import stat
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from app import kernel
from app.hashing.syscalls import SYSCALLS

ROOT = Path(__file__).parents[1]
CAN_CONTAIN = os.geteuid() == 0 and all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount"))

_NOBODY = 65534
_NAMESPACE_CALLS = {"x86_64": {"unshare": 272, "setns": 308}, "aarch64": {"unshare": 97, "setns": 268}}
_CLONE3 = 435
_LANDLOCK = (444, 445, 446)
_ANY_NEW_NAMESPACE = 0x7E020000

NO_NAMESPACES = {
    **dict.fromkeys(_NAMESPACE_CALLS[os.uname().machine].values(), errno.EPERM),
    # Its flags are out of a filter's sight; C libraries then use clone.
    _CLONE3: errno.ENOSYS,
}
NO_LANDLOCK = dict.fromkeys(_LANDLOCK, errno.ENOSYS)
NO_SECCOMP = {SYSCALLS[os.uname().machine]["seccomp"]: errno.ENOSYS}


def refusing(answers: Mapping[int, int], command: Sequence[str]) -> list[str]:
    """The command line that runs a command whose calls of these numbers get these error numbers."""
    told = [f"{number}={code}" for number, code in answers.items()]
    return [sys.executable, "-B", str(Path(__file__)), *told, "--", *command]


def contained(command: Sequence[str], *, user: int = _NOBODY) -> list[str]:
    """The command line that runs a command as a container does: see this module's text."""
    return _as(user, refusing(NO_NAMESPACES, command), "mount -o remount,ro,bind /")


def as_user(user: int, command: Sequence[str]) -> list[str]:
    """The command line that runs a command as another user, without a capability, who can read this tree."""
    return _as(user, command)


def _as(user: int, command: Sequence[str], *mounts: str) -> list[str]:
    """Run a command as a user to whom the interpreter and this tree are open, after some more mounts."""
    needed = {Path(sys.prefix), Path(sys.base_prefix), ROOT}
    hidden = {place: top for place in needed if (top := _closed_to_others(place)) is not None}
    lines = ["set -e", "mount --make-rprivate /", "mount -t tmpfs -o mode=755 tmpfs /mnt"]
    for number, place in enumerate(hidden):
        lines += [f"mkdir /mnt/{number}", f"mount --bind {shlex.quote(str(place))} /mnt/{number}"]
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(top))}" for top in set(hidden.values())]
    for number, place in enumerate(hidden):
        quoted = shlex.quote(str(place))
        lines += [f"mkdir -p {quoted}", f"mount --bind /mnt/{number} {quoted}"]
    identity = f"--reuid={user} --regid={user} --clear-groups"
    privileges = "--bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs"
    lines += [*mounts, f'exec setpriv {identity} {privileges} "$@"']
    return ["unshare", "--mount", "sh", "-c", "\n".join(lines), "sh", *command]


def _closed_to_others(place: Path) -> Path | None:
    """The topmost folder on the way to a place that others may not pass."""
    for folder in (*reversed(place.parents), place):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def _filter(answers: Mapping[int, int]) -> bytes:
    """A seccomp program that allows all but these calls, and clones into no new namespace."""
    load, jump, jump_if_any, leave = 0x20, 0x15, 0x45, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000
    program = [(load, 0, 0, 0)]
    for number, code in answers.items():
        program += [(jump, 0, 1, number), (leave, 0, 0, refuse | code)]
    if _CLONE3 in answers:
        program += [
            (jump, 0, 3, SYSCALLS[os.uname().machine]["clone"]),
            (load, 0, 0, 16),
            (jump_if_any, 0, 1, _ANY_NEW_NAMESPACE),
            (leave, 0, 0, refuse | errno.EPERM),
        ]
    program.append((leave, 0, 0, allow))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _main() -> None:
    divider = sys.argv.index("--")
    told = [each.partition("=") for each in sys.argv[1:divider]]
    answers = {int(number): int(code) for number, _, code in told}
    command = sys.argv[divider + 1 :]
    kernel.forbid_new_privileges()
    kernel.load_seccomp(SYSCALLS[os.uname().machine]["seccomp"], _filter(answers))
    os.execv(command[0], command)  # noqa: S606 - this process becomes the command


if __name__ == "__main__":
    _main()
