"""HAProxy's runtime API over its unix socket: one command, one connection, one answer."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from app.edge_config import Address, EdgeMode, literal, slot_name

ANSWER_S = 5
AT_ONCE = 100
"""Commands in a line; a line must fit HAProxy's buffer."""


class EdgeError(Exception):
    """The edge cannot do it; the message says why and what to do, for the person who runs it."""


class AdminSocket:
    """Commands to the HAProxy whose socket lies in `folder`. Each raises EdgeError if it is not done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def pid(self) -> int | None:
        """Process id of who answers there; None if nobody does."""
        try:
            found = re.search(r"^Pid: (\d+)$", await self.ask("show info"), re.MULTILINE)
        except EdgeError:
            return None
        return int(found.group(1)) if found else None

    async def route(self, served: str, base: str | None) -> None:
        """Send `served` to `base`, or to the gateway if None."""
        await self._silent(f"add map models.map {served} {base}" if base else f"del map models.map {served}")

    async def routes(self, routes: Mapping[str, str]) -> None:
        """Have these served ids lead to these bases, and no others anywhere, from one moment to the next."""
        await self._exchange("models.map", routes)

    async def fill(self, backend: str, index: int, address: Address | None) -> None:
        """Point a slot to a replica and use it, or take it out of use; streams under way go on."""
        slot = f"{backend}/{slot_name(index)}"
        await self._silent(f"set server {slot} state maint")
        if address is not None:
            await self._point(slot, address)
            await self._silent(f"set server {slot} state ready")

    async def keys(self, entries: Mapping[str, str]) -> None:
        """Have the map of keys hold these from one moment to the next; if anything fails it stays as it was."""
        await self._exchange("keys.map", entries)

    async def _exchange(self, name: str, entries: Mapping[str, str]) -> None:
        version = (await self.ask(f"prepare map {name}")).rpartition(" ")[2]
        for key, value in entries.items():
            await self._silent(f"add map @{version} {name} {key} {value}")
        await self._silent(f"commit map @{version} {name}")

    async def mode(self, mode: EdgeMode, successor: Address | None) -> None:
        """Treat new requests so; what was there before stays if the successor is refused."""
        if successor:
            await self._point("successor/edge", successor)
        await self._silent(f"set map flags.map mode {mode}")

    async def closing(self, closing: bool) -> None:
        """Whether every answer closes its connection from now on."""
        await self._silent(f"set map flags.map closing {'yes' if closing else 'no'}")

    async def drop(self, base: str, address: Address) -> None:
        """End the requests that are connected to this address, whatever their slot points to by now."""
        sessions = re.split(r"^(?=0x)", await self.ask("show sess all"), flags=re.MULTILINE)
        found = [session.partition(":")[0] for session in sessions if _connected_to(session, base, address)]
        for index in range(0, len(found), AT_ONCE):  # one that ended by now is not found, which is fine
            await self.ask("; ".join(f"shutdown session {each}" for each in found[index : index + AT_ONCE]))

    async def close_port(self) -> None:
        """Take no new connections."""
        await self._silent("disable frontend edge")

    async def requests(self) -> int:
        """How many requests are under way, those that wait included."""
        return (await self.ask("show sess")).count(" fe=edge ")

    async def _point(self, server: str, address: Address) -> None:
        answer = await self.ask(f"set server {server} addr {address[0]} port {address[1]}")
        if "changed" not in answer and "no need" not in answer:
            raise EdgeError(f"HAProxy did not take {address} for {server}: {answer}")

    async def ask(self, command: str) -> str:
        """The answer, stripped."""
        try:
            async with asyncio.timeout(ANSWER_S), self._connected() as (reader, writer):
                writer.write(command.encode() + b"\n")
                return (await reader.read()).decode(errors="replace").strip()
        except OSError as error:  # TimeoutError is one
            raise EdgeError(f"HAProxy's socket in {self.folder} does not answer {command!r}: {error}") from None

    async def _silent(self, command: str) -> None:
        if answer := await self.ask(command):
            raise EdgeError(f"HAProxy refused {command!r}: {answer.splitlines()[0]}")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
        try:  # through /proc, so that a long path does not matter: a socket's has room for 107 bytes
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/admin.sock")
        finally:
            os.close(folder)
        try:
            yield reader, writer
        finally:
            writer.close()


def _connected_to(session: str, base: str, address: Address) -> bool:
    """Whether `show sess all` says so. One that still connects does not count: it goes to another replica by itself."""
    to = re.escape(literal(address).partition("@")[2])
    lines = (rf"  backend=model-{re.escape(base)} .*", rf"  server=.* addr={to}", r"  scb=\S+ \S+ state=EST .*")
    return all(re.search(f"^{line}$", session, re.MULTILINE) for line in lines)
