"""A scanner whose preloading leaves a thread behind."""

import threading
import time


def preload() -> None:
    """Start a thread that does not end."""
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
