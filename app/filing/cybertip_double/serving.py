"""The double on a socket of this machine."""

from collections.abc import Callable
from typing import Any, Final

import uvicorn

from app.filing.cybertip_double.application import Application

HOST: Final = "127.0.0.1"


async def serve(application: Application, port: int, tell: Callable[[str], None]) -> None:
    """Serve until a signal ends it.

    Args:
        application: the double.
        port: to listen on; 0 picks one.
        tell: called with the base URL once it listens.
    """
    config = uvicorn.Config(
        application,
        host=HOST,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
    )
    server = _Server(config, tell)
    await server.serve()


class _Server(uvicorn.Server):
    """uvicorn, telling where it listens as soon as it does."""

    def __init__(self, config: uvicorn.Config, tell: Callable[[str], None]) -> None:
        super().__init__(config)
        self._tell = tell

    async def startup(self, sockets: Any = None) -> None:  # noqa: ANN401 - uvicorn's own sockets
        """Listen, and tell where."""
        await super().startup(sockets)
        if self.started:
            listening = self.servers[0].sockets[0].getsockname()[1]
            self._tell(f"http://{HOST}:{listening}/ispws")
