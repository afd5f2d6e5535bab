"""Files: all that Prometheus and Grafana need to watch one service, in one folder of its owner's alone."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from app.access.key_records import KeyFile, KeyRecord
from app.access.key_store import KeyStore
from app.access.place import keys_file, keys_required
from app.launch import LaunchError, NotRunningError
from app.monitoring.places import submitted
from app.monitoring.targets import JOB, Targets, follow, local_folder
from app.private_files import make_folder, write_private
from app.settings import Settings
from app.state import read_state
from app.submission.connect import NODE
from deployments.principal import METRICS

CONFIG, RULES, DASHBOARD, KEY, DATA = "prometheus.yml", "rules.yaml", "dashboard.json", "key", "data"
KEY_NAME = "prometheus"
LISTEN = "127.0.0.1:9090"
SCRAPE_S, SCRAPE_TIMEOUT_S = 15, 10


@dataclass(frozen=True)
class Watched:
    """A service to watch. host: of its address. shared: it lies in a SLURM job, and its targets on a shared folder."""

    name: str
    settings: Settings
    targets: Targets
    host: str
    shared: bool = False

    @property
    def asks_for_keys(self) -> bool:
        return keys_required(self.settings, self.host)

    @property
    def makes_certificates(self) -> bool:
        """Whether its address shows one that no authority knows."""
        tls = self.settings.access.tls
        return tls is not None and tls.certificate is None


@dataclass(frozen=True)
class Written:
    """What was written. made_key: id of the key that was made for Prometheus, if none was there."""

    folder: Path
    made_key: str | None
    shared: bool

    @property
    def config(self) -> Path:
        return self.folder / CONFIG

    @property
    def dashboard(self) -> Path:
        return self.folder / DASHBOARD

    @property
    def command(self) -> list[str]:
        """Starts Prometheus, for this host's own users alone."""
        return [
            "prometheus", f"--config.file={self.config}", f"--storage.tsdb.path={self.folder / DATA}",
            f"--web.listen-address={LISTEN}",
        ]  # fmt: skip


def watched(name: str) -> Watched:
    """Raises NotRunningError."""
    if folder := submitted(name):
        return Watched(name, _settings(name, folder.settings), Targets(folder.path), NODE, shared=True)
    state = read_state(name)
    if state is None:
        raise NotRunningError(f"no service {name!r} runs here; `corral up` or `corral slurm up` starts one")
    settings = _settings(name, Path(state.run_dir) / "settings.json")
    return Watched(name, settings, Targets(local_folder(name)), settings.edge.host)


def _settings(name: str, path: Path) -> Settings:
    try:
        return Settings.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise NotRunningError(f"the service {name!r} has left no profile at {path}; start it again") from error


def write(service: Watched, output: Path | None, clock: Callable[[], float] = time.time) -> Written:
    """Write everything into `output`, by default into the state folder. Raises LaunchError, KeysError."""
    folder = (output or local_folder(service.name)).absolute()
    try:
        make_folder(folder)
        _provide_targets(service)
        made = _provide_key(service, folder / KEY, clock()) if service.asks_for_keys else None
        for file in (RULES, DASHBOARD):
            write_private(folder / file, resources.files("app.monitoring").joinpath(file).read_text())
        write_private(folder / CONFIG, yaml.safe_dump(config(service, folder), sort_keys=False))
    except OSError as error:
        raise LaunchError(f"{folder} cannot be written: {error.strerror or error}; --output names another") from error
    return Written(folder, made, service.shared)


def config(service: Watched, folder: Path) -> dict[str, Any]:
    """What prometheus.yml says."""
    scrape: dict[str, Any] = {
        "job_name": JOB,
        "metrics_path": "/metrics",
        "follow_redirects": False,  # the key is for this service alone
        "file_sd_configs": [{"files": [str(service.targets.file)], "refresh_interval": f"{SCRAPE_S}s"}],
    }
    if service.asks_for_keys:
        scrape["authorization"] = {"credentials_file": str(folder / KEY)}
    if service.makes_certificates:
        scrape["tls_config"] = {"ca_file": str(service.targets.authorities)}
    times = {
        "scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_TIMEOUT_S}s",
        "evaluation_interval": f"{SCRAPE_S}s",
    }  # fmt: skip
    return {"global": times, "rule_files": [str(folder / RULES)], "scrape_configs": [scrape]}


def _provide_targets(service: Watched) -> None:
    """The service keeps them from now on; a job does so by itself."""
    if not service.shared:
        make_folder(service.targets.folder)
        if state := read_state(service.name):
            follow(state)
    if service.makes_certificates and not service.targets.authorities.is_file():
        raise LaunchError(f"{service.name!r} has no certificate yet; say this again once it serves")


def _provide_key(service: Watched, file: Path, now: float) -> str | None:
    """The key in the file, as long as it is taken; else a new one, which reads metrics and nothing else."""
    store = KeyStore(keys_file(service.settings))
    known = _key_of(store.load(), file.read_text().strip() if file.is_file() else "")
    if known and known.valid(now):
        return None
    made, text = store.create(KEY_NAME, scopes=(METRICS,))
    write_private(file, text)
    return made.id


def _key_of(keys: KeyFile, text: str) -> KeyRecord | None:
    """The key with this text; None for one that was rotated away."""
    record = next((each for each in keys.keys if each.id in text.split("-")), None)
    if record is None:
        return None
    digest = hashlib.sha256((record.salt + text).encode()).hexdigest()
    return record if hmac.compare_digest(digest, record.digest) else None
