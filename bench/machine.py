"""What the machine says of a run: time that its host took, and memory that a service holds."""

from pathlib import Path

_KIBIBYTE = 1024


def ticks() -> tuple[int, int]:
    """Processor time since the machine started, in ticks: stolen by the host, and busy in all."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return steal, user + nice + system + irq + softirq + steal


def stolen_share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Which part of the busy processor time between two readings of ``ticks`` the host took."""
    return (after[0] - before[0]) / max(after[1] - before[1], 1)


def resident_bytes(pid: int) -> int:
    """Memory of a process and all that descend from it; pages that several of them map are counted once."""
    return sum(_proportional_bytes(each) for each in [pid, *_descendants(pid)])


def _proportional_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * _KIBIBYTE
    return 0


def _descendants(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    return children + [each for child in children for each in _descendants(child)]
