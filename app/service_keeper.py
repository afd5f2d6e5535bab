"""The keeper beside a service: app.access.keeper_app as a child process, started again when it dies."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from app.access.keeper_app import KeeperConfig
from app.access.key_store import first_key
from app.bounded_log import open_log

RESTART_S = 0.1


class KeeperProcess:
    """It decides about requests and counts what they take.

    config: asked for at every start, since a change may have put other settings in force. log: the file for what it
    prints. note: told that it broke and is mended.
    """

    def __init__(self, config: Callable[[], KeeperConfig], log: Path, note: Callable[[str], None]) -> None:
        self._config, self._log, self._note = config, log, note
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Where keys are asked for and there are none, make the first one. Raises KeysError if their file is wrong."""
        config = self._config()
        if config.keys:
            await asyncio.to_thread(first_key, Path(config.keys))
        with open_log(self._log) as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "app.access.keeper_app",
                stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output,
            )  # fmt: skip
        assert self._process.stdin
        self._process.stdin.write(config.to_json().encode() + b"\n")
        self._process.stdin.close()

    async def guard(self) -> None:
        """Start it again when it dies; the edge waits for it (EdgeSpec.keeper_wait_s)."""
        while self._process:
            code = await self._process.wait()
            self._note(f"the keeper ended with status {code} and is started again")
            await asyncio.sleep(RESTART_S)
            await self.start()
