"""`corral slurm`: parse, call, print. What it does lies in submit.py, follow.py, actions.py, listing.py, connect.py."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.options import DEFAULT, Json, Name, Profile
from app.show import aligned, print_error, print_json

if TYPE_CHECKING:
    from app.allocation.records import ServiceFolder
    from app.submission.look import Look
    from app.submission.submit import Submitted
    from slurm.client import SlurmClient

T = TypeVar("T")
slurm = typer.Typer(no_args_is_help=True, help="Serve inside a SLURM allocation.")
PATIENCE_S = 5
"""Where the shared folder knows most of it anyway, nobody waits longer for a controller."""


def _client(patience_s: float = 60) -> SlurmClient:
    from slurm.client import SlurmClient

    return SlurmClient(patience_s=patience_s)


def _act(name: str, action: Callable[[ServiceFolder, SlurmClient], Coroutine[Any, Any, T]]) -> T:
    """Do something with a service that was submitted."""

    async def run() -> T:
        return await action(await _folder(name), _client())

    return asyncio.run(run())


async def _folder(name: str) -> ServiceFolder:
    from app.submission.state import find

    return await find(name, _client(PATIENCE_S))


@slurm.command()
def render(profile: Profile = None, name: Name = DEFAULT, as_json: Json = False) -> None:
    """Print the job script, and say what this cluster could not give."""
    from app.settings import load_settings
    from app.submission.preview import preview

    shown = asyncio.run(preview(load_settings(profile), name, _client(PATIENCE_S)))
    if as_json:
        print_json(shown.to_json())
    else:
        typer.echo(shown.script, nl=False)
    for note in shown.notes:
        print_error(f"note: {note}")
    shown.require_fit()


@slurm.command()
def up(
    profile: Profile = None, name: Name = DEFAULT, as_json: Json = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once SLURM has taken the job.")] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds to wait; no limit if unset.")] = None,
) -> None:  # fmt: skip
    """Submit the service and wait until its models answer; it runs on after this command ends."""
    from app.launch import LaunchError
    from app.submission.connect import key_json, own_key
    from app.submission.show import ready_message

    submitted = asyncio.run(_submit(profile, name))
    key = own_key(submitted.job.service)
    if no_wait:
        text = f"job {submitted.job_id} is submitted; `corral slurm status` follows it"
        wanted = f"\nRequests need a key: {key.advice}" if key else ""
        _say(as_json, {**submitted.to_json(), **key_json(key)}, text + wanted)
        return
    try:
        seen = asyncio.run(_follow(submitted, timeout, quiet=as_json))
    except KeyboardInterrupt:
        print_error(f"job {submitted.job_id} goes on; `corral slurm status` shows it, `corral slurm down` ends it")
        raise
    if as_json:
        print_json({**seen.to_json(), **key_json(key)})
    else:
        ready_message(seen)
    if not seen.answering:
        raise LaunchError("no model could be started; `corral slurm status` says why, `corral slurm down` ends the job")


async def _submit(profile: str | None, name: str) -> Submitted:
    from app.settings import load_settings
    from app.submission.submit import submit

    try:
        return await submit(load_settings(profile), name, profile or "pocket", _client(), warn=print_error)
    except asyncio.CancelledError:  # Ctrl-C while sbatch ran
        print_error("it is not known whether a job was submitted; `corral slurm list` shows it, `down` ends it")
        raise


async def _follow(submitted: Submitted, timeout_s: float | None, quiet: bool) -> Look:
    from app.submission.follow import follow
    from app.submission.show import Board

    with Board(quiet=quiet) as board:
        async for seen in follow(submitted.job, submitted.job_id, _client(PATIENCE_S), timeout_s):
            board.update(seen)
    return seen


@slurm.command()
def status(name: Name = DEFAULT, as_json: Json = False) -> None:
    """Show the job, its nodes, and each model's state."""
    from app.launch import LaunchError, NotRunningError
    from app.submission.show import status_table
    from slurm.jobs import JobState

    seen = asyncio.run(_look(name))
    if as_json:
        print_json(seen.to_json())
    else:
        status_table(seen)
    if problem := seen.problem(time.time()):
        done = seen.job is None or seen.job.state in (JobState.COMPLETED, JobState.COMPLETING, JobState.CANCELLED)
        raise NotRunningError(problem) if done else LaunchError(problem)


async def _look(name: str) -> Look:
    from app.submission.follow import look

    return await look(await _folder(name), _client(PATIENCE_S))


@slurm.command()
def logs(
    model: Annotated[str | None, typer.Argument(help="A model; without one, all logs of the job.")] = None,
    name: Name = DEFAULT, as_json: Json = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-l", min=0, help="Last lines of each file.")] = 50,
    request: Annotated[str, typer.Option("--request", metavar="ID", help="Only what names this request.")] = "",
) -> None:  # fmt: skip
    """Print the end of the job's logs, and what comes with --follow."""
    from app.log_files import read
    from app.submission.follow import latest
    from app.submission.logs import check_model, files

    job, _ = latest(asyncio.run(_folder(name)))
    check_model(job, model)
    for file, line in read(files(job, model), lines, follow, lambda: files(job, model), about=request):
        path = str(file.relative_to(job.logs))
        if as_json:
            print_json({"file": path, "line": line}, compact=True)
        else:
            typer.echo(f"{path}: {line}")


@slurm.command()
def down(
    name: Name = DEFAULT, as_json: Json = False,
    grace: Annotated[float, typer.Option("--grace", min=0, help="Seconds until it is cancelled.")] = 60,
) -> None:  # fmt: skip
    """End the service with all its jobs; their logs stay."""
    from app.submission.actions import down as end

    ended = _act(name, lambda folder, client: end(folder, client, grace))
    jobs = ", ".join(map(str, (*ended.ended, *ended.cancelled)))
    _say(as_json, ended.to_json(), f"{name} (job {jobs}) has ended.")


@slurm.command(name="list")
def list_services(as_json: Json = False) -> None:
    """List your services on this cluster."""
    from app.submission.listing import HEADING, services

    found = asyncio.run(services(_client()))
    rows = [listed.row() for listed in found]
    text = aligned([HEADING, *rows]).rstrip("\n") if rows else "no services; `corral slurm up` submits one"
    _say(as_json, [listed.to_json() for listed in found], text)


@slurm.command()
def extend(
    walltime: Annotated[str, typer.Argument(metavar="TIME", help="From the start, such as 8:00:00; or +1:00:00 more.")],
    name: Name = DEFAULT, as_json: Json = False,
) -> None:  # fmt: skip
    """Give the job more time, where the site allows it."""
    from app.submission.actions import extend as give
    from slurm.walltime import format_walltime

    job_id, limit = _act(name, lambda folder, client: give(folder, client, walltime))
    told = {"name": name, "job_id": job_id, "walltime": format_walltime(limit)}
    _say(as_json, told, f"job {job_id} may now run for {format_walltime(limit)}")


@slurm.command()
def connect(
    name: Name = DEFAULT, as_json: Json = False,
    forward: Annotated[bool, typer.Option("--forward", help="Run the ssh, until Ctrl-C.")] = False,
    login: Annotated[str | None, typer.Option("--login", help="user@host to go through; default: this one.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65_535, help="The laptop's port.")] = None,
) -> None:  # fmt: skip
    """Print the ways to the service from here and from a laptop, or open one."""
    from app.launch import LaunchError, NotRunningError
    from app.submission.connect import own_key, ways

    seen = asyncio.run(_look(name))
    if seen.address is None or (problem := seen.problem(time.time())):
        raise NotRunningError(problem if seen.address else f"{name!r} has no address (job {seen.job_id} {seen.phase})")
    found = ways(seen.address, login, port, own_key(seen.at.service))
    _say(as_json, found.to_json(), found.lines().rstrip("\n"))
    if forward and (code := subprocess.run(found.forward, check=False).returncode):
        raise LaunchError(f"ssh ended with status {code}; --login names the machine to go through")


@slurm.command()
def drain(name: Name = DEFAULT, as_json: Json = False) -> None:
    """Take no new requests, finish the old ones, then end."""
    from app.submission.actions import drain as begin

    seen = _act(name, begin)
    _say(as_json, {"name": name, "job_id": seen.job_id, "draining": True}, f"job {seen.job_id} drains and then ends")


@slurm.command()
def join(
    name: Name = DEFAULT, as_json: Json = False,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Of cluster.groups; default: the first.")] = None,
) -> None:  # fmt: skip
    """Submit a job of one more node, which joins the running service."""
    from app.submission.actions import join as add

    submitted = _act(name, lambda folder, client: add(folder, client, group))
    _say(as_json, submitted.to_json(), f"job {submitted.job_id} is submitted; it joins {name} once it runs")


@slurm.command()
def timeline(
    name: Name = DEFAULT, as_json: Json = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write the picture there, too.")] = None,
) -> None:  # fmt: skip
    """Show what happened when, and what each part of the start cost."""
    from app.submission.follow import latest
    from app.submission.timeline import show_timeline

    job, _ = latest(asyncio.run(_folder(name)))
    show_timeline(job, as_json=as_json, svg=svg)


def _say(as_json: bool, told: Any, text: str) -> None:
    if as_json:
        print_json(told)
    else:
        typer.echo(text)
