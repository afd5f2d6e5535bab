"""Places: how a service of this person's is found by its name, on this host or in a SLURM job, each time anew."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import httpx

from app.access.mine import own_key
from app.allocation.records import Address, ServiceFolder
from app.launch import NotRunningError
from app.reach import CONNECT_S, Reach, reach
from app.state import read_state
from app.submission.connect import own_key as submitted_key
from app.submission.state import remembered

SILENCE_S = 10


@dataclass(frozen=True)
class Place:
    """Where it is now. phase: as `corral status` calls it; unknown of a service that is known by its URL alone."""

    reach: Reach
    phase: str

    @property
    def url(self) -> str:
        return self.reach["base_url"]


def submitted(name: str) -> ServiceFolder | None:
    """The folder of a service that was submitted from here; None where one of that name runs on this host."""
    state = read_state(name)
    if state and state.alive():
        return None
    return next((known.service for known in remembered() if known.name == name), None)


def place(name: str, url: str | None) -> Place:
    """Raises NotRunningError, also of a job that has no address yet."""
    if url is not None:
        return Place(reach(name, url, SILENCE_S), "")
    if folder := submitted(name):
        return _in_a_job(name, folder)
    found, state = reach(name, None, SILENCE_S), read_state(name)
    return Place(found, state.phase if state else "")


def _in_a_job(name: str, folder: ServiceFolder) -> Place:
    job, address = folder.latest(), Address.read(folder.address)
    status = job.status() if job else None
    phase = status.phase if status else "waiting"
    if address is None:
        raise NotRunningError(f"{name!r} has no address now ({phase}); `corral slurm status` says more")
    return Place(
        Reach(
            base_url=address.url,
            headers=_headers(name, folder),
            verify=ssl.create_default_context(cafile=address.certificate) if address.certificate else True,
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
            trust_env=False,
        ),
        phase,
    )


def _headers(name: str, folder: ServiceFolder) -> dict[str, str]:
    """$CORRAL_API_KEY, else the first key, where it was made here."""
    key = own_key(name, None)
    if key is None and (own := submitted_key(folder)) and own.file:
        key = own.file.read_text().strip()
    return {"authorization": f"Bearer {key}"} if key else {}
