"""Programs under strace: each call with which they, their threads or their children could write a file.

The tracer is a grandchild of what it traces, so signals and exit codes are the program's own. Decoders'
calls that their own filter refuses do not show: the kernel asks that filter first, and then nothing happens.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.gates import wait_for

WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2")
MOVES = ("sendfile", "splice", "tee", "vmsplice", "copy_file_range")
OPENS = ("open", "openat", "openat2", "creat")
RINGS = ("io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup", "io_submit")
NAMES = (
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("mkdir", "mkdirat", "mknod", "mknodat", "truncate"),
    *("setxattr", "lsetxattr", "fsetxattr"),
)
OTHERS = (
    "memfd_create",
    "mmap",
    "ftruncate",
    "fallocate",
    "ioctl",
    "socket",
    "connect",
    "execve",
    "execveat",
)
TRACED = (*WRITES, *MOVES, *OPENS, *RINGS, *NAMES, *OTHERS)

LONGEST_BUFFER = 64 * 1024 * 1024
_END_SECONDS = 60

_LINE = re.compile(r"(\w+)\((.*)", re.DOTALL)
_DESCRIPTOR = re.compile(r"(?:\b\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")
_STRING = re.compile(r'"([^"]*)"(\.\.\.)?')
_WRITING_FLAGS = re.compile(r"O_(?:WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)\b")
_PORT = re.compile(r"sin6?_port=htons\((\d+)\)")
_NO_FILES = ("/memfd:", "socket:[", "pipe:[", "anon_inode:", "/dev/null", "/dev/tty", "/dev/pts/")
_MOVED_TO = {"sendfile": 0, "copy_file_range": 1, "splice": 1, "tee": 1, "vmsplice": 0}
_CLONES = ("FICLONE", "FICLONERANGE", "FIDEDUPERANGE")


@dataclass(frozen=True)
class Call:
    """One call of the kernel.

    Attributes:
        text: its arguments as strace shows them, for small calls.
        descriptors: what its descriptors were, in order.
        strings: its string and buffer arguments, in order.
        result: what it gave back, as strace shows it; empty if it never came back.
    """

    process: int
    name: str
    text: str
    descriptors: tuple[str, ...]
    strings: tuple[bytes, ...] = field(repr=False)
    result: str

    @property
    def failed(self) -> bool:
        """Whether the kernel refused it."""
        return self.result.startswith("-1 ")

    @property
    def opened(self) -> str | None:
        """The file that it opened to write to."""
        if self.name not in OPENS or self.failed:
            return None
        if self.name != "creat" and not _WRITING_FLAGS.search(self.text):
            return None
        shown = _DESCRIPTOR.search(self.result)
        file = _text(shown[1]) if shown else os.fsdecode(self.strings[0])
        return file if is_file(file) else None

    @property
    def shared_map(self) -> str | None:
        """What it mapped so that writing to memory writes to it; '?' if strace could not tell."""
        if self.name != "mmap" or "MAP_SHARED" not in self.text or "PROT_WRITE" not in self.text:
            return None
        if "MAP_ANONYMOUS" in self.text:
            return None
        return self.descriptors[0] if self.descriptors else "?"

    @property
    def written(self) -> str | None:
        """The file that it wrote to; '?' if strace could not tell."""
        if self.name not in WRITES:
            return None
        target = self.descriptors[0] if self.descriptors else "?"
        return target if is_file(target) else None

    @property
    def moved(self) -> str | None:
        """The file that the kernel was told to write to by itself, in whatever way."""
        if self.name == "ioctl":
            return (self.descriptors or ("?",))[0] if any(name in self.text for name in _CLONES) else None
        if self.name not in MOVES:
            return None
        place = _MOVED_TO[self.name]
        target = self.descriptors[place] if len(self.descriptors) > place else "?"
        return target if is_file(target) else None

    @property
    def spoke_to(self) -> str | None:
        """The address of a socket that it connected, or tried to; the kind if it cannot be told."""
        if self.name == "socket" and "AF_UNIX" in self.text and "SOCK_DGRAM" in self.text:
            return "unix datagrams"
        if self.name != "connect":
            return None
        if "AF_UNIX" in self.text:
            return os.fsdecode(self.strings[-1]) if self.strings else "unix"
        port = _PORT.search(self.text)
        return f"{os.fsdecode(self.strings[-1])}:{port[1]}" if port and self.strings else None


def is_file(target: str) -> bool:
    """Whether writing to what a descriptor is may reach a disk."""
    return not target.startswith(_NO_FILES)


@dataclass(frozen=True)
class Trace:
    """A program under strace.

    Attributes:
        folder: where its trace is, one file a thread.
        undumpable: whether it makes itself undumpable, as Cordon does. Then only root sees what its
            descriptors are; another user runs it as root of a namespace of its own.
    """

    folder: Path
    undumpable: bool = True

    def __post_init__(self) -> None:
        self.folder.mkdir()

    @property
    def wrapper(self) -> tuple[str, ...]:
        """What to put before the command line of the program."""
        strace = (
            *("strace", "-D", "-ff", "--seccomp-bpf", "-qq", "-e", "signal=none"),
            *("-y", "-xx", "-e", "abbrev=execve", "-s", str(LONGEST_BUFFER)),
            *("-e", f"trace={','.join('?' + name for name in TRACED)}"),
            *("-o", str(self.folder / "calls")),
            # As it is shipped: what measures coverage would write files of its own.
            *("-E", "COVERAGE_PROCESS_CONFIG", "-E", "COVERAGE_PROCESS_START"),
        )
        if self.undumpable and os.geteuid() != 0:
            return ("unshare", "--user", "--map-root-user", *strace)
        return strace

    def wait(self) -> None:
        """Wait until what an ended program did is written down whole."""
        wait_for(lambda: not self._is_being_written(), _END_SECONDS)

    def _is_being_written(self) -> bool:
        told = os.fsencode(self.folder / "calls")
        return any(told in _command(entry) for entry in Path("/proc").iterdir() if entry.name.isdecimal())

    def calls(self) -> Iterator[Call]:
        """All that was traced, thread after thread.

        Raises:
            AssertionError: a buffer was cut, so that nobody knows what was in it.
        """
        for file in sorted(self.folder.glob("calls.*")):
            with file.open(encoding="ascii") as lines:
                for line in lines:
                    call = _read(int(file.suffix[1:]), line)
                    if call is not None:
                        yield call


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        # It has ended in this moment.
        return b""


def _read(process: int, line: str) -> Call | None:
    found = _LINE.match(line)
    if found is None:
        return None
    name, rest = found.groups()
    target = _DESCRIPTOR.match(rest)
    if name in WRITES and target is not None and not is_file(_text(target[1])):
        # To sockets and pipes go whole media, which nobody need decode.
        return Call(process, name, "", (_text(target[1]),), (), "")
    arguments, _, result = rest.rpartition(" = ")
    if not arguments:
        # It was killed in the middle of this call.
        arguments, result = rest, ""
    strings = []
    for text, cut in _STRING.findall(arguments):
        assert not cut, f"a buffer of {name} was cut"
        strings.append(bytes.fromhex(text.replace("\\x", "")))
    unquoted = _STRING.sub('""', arguments)
    descriptors = tuple(_text(shown) for shown in _DESCRIPTOR.findall(unquoted))
    return Call(process, name, unquoted, descriptors, tuple(strings), result.strip())


def _text(shown: str) -> str:
    return os.fsdecode(bytes.fromhex(shown.replace("\\x", "")))
