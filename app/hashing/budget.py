"""A budget of bytes that many share, each waiting its turn for what it needs."""

import asyncio
from collections import deque


class Budget:
    """Bytes that may be reserved at once, granted in the order in which they were asked for.

    Who asks holds nothing while waiting, so nobody waits for ever while the others finish.

    Attributes:
        total: all bytes there are.
        reserved: bytes granted now.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.reserved = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def reserve(self, count: int) -> None:
        """Wait for ``count`` bytes, at most the total, and take them."""
        if self.take(count):
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((count, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                # Whoever stood behind may fit now.
                self._grant()
            else:
                self.release(count)
            raise

    def take(self, count: int) -> bool:
        """Take ``count`` bytes if nobody has to wait for it; whether that was so."""
        if self._waiting or self.reserved + count > self.total:
            return False
        self.reserved += count
        return True

    def release(self, count: int) -> None:
        """Return bytes that were reserved."""
        self.reserved -= count
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            count, granted = self._waiting[0]
            if not granted.cancelled():
                if self.reserved + count > self.total:
                    return
                self.reserved += count
                granted.set_result(None)
            self._waiting.popleft()
