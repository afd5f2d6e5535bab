"""The one address: HAProxy as a child process, steered over its admin socket.

edge = Edge(EdgeSpec(...))
await edge.start()
await edge.set_replicas("llama-3.1-8b", [("10.0.0.7", 40001)])   # straight to the replica, Serve as the backup
await edge.set_model("llama-3.1-8b", False)                      # the gateway answers, and says why
code = await edge.wait()                                         # it died: start() again brings back the same state
await edge.set_mode(EdgeMode.MOVED, ("10.0.0.9", 8000))           # all that is new goes to the successor
await edge.stop(drain_s=5)
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from app.edge_admin import AdminSocket, EdgeError
from app.edge_config import Address, EdgeKey, EdgeMode, EdgeSpec, EdgeState, ModelLimits, literal, placed
from app.edge_process import LOG_BYTES, EdgeProcess

__all__ = ["Edge", "EdgeError", "EdgeKey", "EdgeMode", "EdgeSpec", "EdgeState", "ModelLimits"]


class Edge:
    """One HAProxy and what it was told since it started. Its methods raise EdgeError."""

    def __init__(self, spec: EdgeSpec, binary: str | None = None) -> None:
        self._spec = spec
        self._state = EdgeState()
        self._lock = asyncio.Lock()
        self._admin = AdminSocket(spec.workdir)
        self._process = EdgeProcess(self._admin, binary)

    @property
    def pid(self) -> int | None:
        """Process id of the HAProxy that takes new connections; None if none runs."""
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it answers. Raises EdgeError if the port is taken or the configuration is refused."""
        async with self._lock:
            if self.pid:
                raise EdgeError("the edge runs already; reload() takes a changed set of models")
            await self._process.start(self._spec, self._state)

    async def reload(self, spec: EdgeSpec) -> None:
        """Go on with another set of models or limits. No connection is refused; streams end in the old process.

        `host`, `port` and `workdir` stay. If the new configuration is refused, the old process goes on.
        """
        if (spec.host, spec.port, spec.workdir) != (self._spec.host, self._spec.port, self._spec.workdir):
            raise EdgeError("reload keeps host, port and workdir; stop() and a new Edge change them")
        async with self._lock:
            state = self._state.kept_for(spec)
            await self._process.reload(spec, state)
            self._spec, self._state = spec, state

    async def wait(self) -> int:
        """Wait until the HAProxy that takes new connections ends; returns its exit status."""
        while process := self._process.current:
            code = await process.wait()
            async with self._lock:  # a reload may be about to name its successor
                if process is self._process.current:
                    return code
        return 0

    async def stop(self, drain_s: float = 30) -> None:
        """Take no new connections, let requests end for `drain_s`, then end the rest."""
        async with self._lock:
            await self._process.stop(drain_s)

    async def set_model(self, served: str, routed: bool) -> None:
        """Route a served id to its model, or leave it to the gateway."""
        base = dict(self._spec.models).get(served)
        if base is None:
            raise EdgeError(f"no model {served!r} here; there are {', '.join(dict(self._spec.models))}")
        async with self._lock:
            if routed == (served not in self._state.unrouted):
                return
            if self.pid:
                await self._admin.route(served, base if routed else None)
            self._state = replace(self._state, unrouted=self._state.unrouted ^ {served})

    async def lead(self, models: Sequence[tuple[str, str]]) -> None:
        """Have these (served id, base) pairs in place of those before, all from one moment to the next.

        Each base has a backend already; one that no id leads to any more keeps it, for requests under way.
        """
        for _, base in models:
            self._refuse_unknown(base)
        spec = replace(self._spec, models=tuple(models), spare=self._spec.bases)
        async with self._lock:
            state = self._state.kept_for(spec)
            if self.pid:
                await self._admin.routes({each: base for each, base in models if each not in state.unrouted})
            self._spec, self._state = spec, state

    async def set_replicas(self, base: str, replicas: Sequence[Address]) -> None:
        """Send a model's requests straight to these (ip, port); with none, and for those past the slots, to Serve."""
        self._refuse_unknown(base)
        wanted = [address for address in replicas if literal(address)]
        async with self._lock:
            await self._fill(base, wanted)

    async def set_gateway(self, replicas: Sequence[Address]) -> None:
        """Send what is the gateway's straight to its replicas; with none, to Serve."""
        wanted = [address for address in replicas if literal(address)]
        async with self._lock:
            filled = await self._filled("gateway", self._state.gateway, wanted, self._spec.gateway_replicas)
            self._state = replace(self._state, gateway=filled)

    async def drop_sessions(self, base: str, address: Address) -> None:
        """Take out a replica whose node is dead, and end its requests at once: 502, or a broken stream.

        Before or after set_replicas; those in a process from before a reload end at the idle timeout.
        """
        self._refuse_unknown(base)
        async with self._lock:
            kept = [each for each in self._state.slots.get(base, ()) if each and each != address]
            await self._fill(base, kept)
            if self.pid:
                await self._admin.drop(base, address)

    async def set_mode(self, mode: EdgeMode, successor: Address | None = None) -> None:
        """What becomes of new requests from now on. MOVED takes the (ip, port) of another edge, no other mode does."""
        if (mode is EdgeMode.MOVED) != bool(successor and literal(successor)):
            raise EdgeError(f"mode {mode} takes {'a' if mode is EdgeMode.MOVED else 'no'} successor, got {successor}")
        async with self._lock:
            if self.pid:
                await self._admin.mode(mode, successor)
            self._state = replace(self._state, mode=mode, successor=successor)

    async def set_keys(self, keys: Sequence[EdgeKey]) -> None:
        """Take these keys from now on and no other; requests under way go on."""
        entries = dict(key.entry for key in keys)
        async with self._lock:
            if entries == self._state.keys:
                return
            if self.pid:
                await self._admin.keys(entries)
            self._state = replace(self._state, keys=entries)

    @property
    def spec(self) -> EdgeSpec:
        """As it is now."""
        return self._spec

    @property
    def older(self) -> int:
        """Processes from before a reload that have not ended yet; each goes by what it was told then."""
        return self._process.older

    async def requests(self) -> int:
        """How many requests are under way, those that wait included.

        A process from before a reload counts as one until it ends: it can no longer be asked.
        """
        return self.older + (await self._admin.requests() if self.pid else 0)

    async def health(self) -> Mapping[str, str]:
        """Status of each slot in use, for example {"model-a/r1": "UP"}; of Serve's address nothing is known."""
        lines = [line.split(",") for line in (await self._admin.ask("show stat")).splitlines()]
        return {f"{row[0]}/{row[1]}": row[17] for row in lines if len(row) > 17 and row[17].startswith(("UP", "DOWN"))
                and row[1] not in ("FRONTEND", "BACKEND")}  # fmt: skip

    def rotate_log(self, limit: int = LOG_BYTES) -> None:
        """Keep the log from filling the disk; it is emptied under HAProxy's hands."""
        self._process.rotate_log(limit)

    def _refuse_unknown(self, base: str) -> None:
        if base not in self._spec.bases:
            raise EdgeError(f"no model {base!r} here; there are {', '.join(self._spec.bases)}")

    async def _fill(self, base: str, wanted: list[Address]) -> None:
        size, old = self._spec.limits_of(base).replicas, self._state.slots.get(base, ())
        new = await self._filled(f"model-{base}", old, wanted, size)
        self._state = replace(self._state, slots={**self._state.slots, base: new})

    async def _filled(
        self, backend: str, filled: tuple[Address | None, ...], wanted: list[Address], size: int
    ) -> tuple[Address | None, ...]:
        old = (*filled, *[None] * size)[:size]
        for index, address in enumerate(new := placed(old, wanted, size)):
            if self.pid and address != old[index]:
                await self._admin.fill(backend, index, address)
        return new
