"""Outlook: what is known of a service's end and of its job's nodes, in Prometheus's format."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from app.allocation.records import JobStatus

NODE_STATES = ("joined", "waiting", "lost", "failed")
TIMEOUT_S = 1
"""The files may lie on a network file system that does not answer."""
log = logging.getLogger("corral.keeper")


@dataclass(frozen=True)
class Outlook:
    """status: a job's status.json; certificate: what the address shows, in PEM. Empty where there is none."""

    status: str = ""
    certificate: str = ""

    async def exposition(self) -> str:
        """Empty while the files cannot be read."""
        if not self.status and not self.certificate:
            return ""
        try:
            return await asyncio.wait_for(asyncio.to_thread(self.read), TIMEOUT_S)
        except (OSError, ValueError, TimeoutError) as error:
            log.warning("the service's outlook is not known: %r", error)
            return ""

    def read(self) -> str:
        """Raises OSError and ValueError for a certificate that cannot be read."""
        registry = CollectorRegistry()
        if self.certificate:
            self._tell_certificate(registry)
        if self.status and (status := JobStatus.read(Path(self.status))):
            _tell_job(registry, status)
        return generate_latest(registry).decode()

    def _tell_certificate(self, registry: CollectorRegistry) -> None:
        from cryptography import x509  # the keeper, which is to start fast, needs it here alone

        leaf = x509.load_pem_x509_certificates(Path(self.certificate).read_bytes())[0]
        text = "When the certificate of the address ends, in Unix time."
        expires = Gauge("corral_certificate_expires_timestamp_seconds", text, registry=registry)
        expires.set(leaf.not_valid_after_utc.timestamp())


NO_OUTLOOK = Outlook()


def _tell_job(registry: CollectorRegistry, status: JobStatus) -> None:
    if status.deadline is not None:
        text = "When SLURM ends the job, in Unix time."
        Gauge("corral_job_ends_timestamp_seconds", text, registry=registry).set(status.deadline)
    text = "1 once a job was submitted that takes over before this one ends."
    Gauge("corral_job_successor", text, registry=registry).set(status.successor is not None)
    nodes = Gauge("corral_job_nodes", "Nodes of the job by state.", ("state",), registry=registry)
    found = Counter(node.get("state") for node in status.nodes.values())
    for state in NODE_STATES:
        nodes.labels(state).set(found[state])
