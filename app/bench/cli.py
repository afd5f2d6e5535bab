"""`corral bench`: parse, call, print. What it does lies in measure.py, what it prints in show.py."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.evaluation.interruption import interruptible
from app.options import DEFAULT, Json, Name, Profile, Url
from app.settings import SettingsError
from app.show import print_error, print_json
from loadtests.client.sharegpt import WorkloadError
from loadtests.sweep.errors import BenchError, PlanError

if TYPE_CHECKING:
    from app.bench.asked import Asked
    from app.bench.endpoints import Where
    from app.bench.measure import Task
    from app.settings import Settings
    from loadtests.records import Run
    from loadtests.report.aims import Aim
    from loadtests.sweep.board import Board

bench_commands = typer.Typer(invoke_without_command=True)

Aims = Annotated[str | None, typer.Option(
    "--aims", help="What must be reached, else the exit code is 1: itl_p95<=10@128, output_tokens_per_s.ratio>=0.95@64."
)]  # fmt: skip
Out = Annotated[Path | None, typer.Option("--out", help="Default: ./bench-DATE-TIME.")]
GOES_WITH_RESUME = ("--resume", "--against-key-env", "--aims", "--json")


@bench_commands.callback()
def bench(
    context: typer.Context,
    name: Name = DEFAULT, url: Url = None, profile: Profile = None,
    models: Annotated[str | None, typer.Option("--models", "-m", help="With commas; all that chat if unset.")] = None,
    concurrency: Annotated[str | None, typer.Option(
        "--concurrency", "-c", help="Users who ask at once: 1,4,16, or the default 1..256, doubling.")] = None,
    rate: Annotated[str | None, typer.Option("--rate", help="Or arrivals a second, at random: 0.5,1,2.")] = None,
    lengths: Annotated[str, typer.Option("--lengths", help="INPUT:OUTPUT in tokens, with commas.")] = "128:128",
    kinds: Annotated[str, typer.Option("--kinds", help="Of chat, single, bulk, tribunal, rag.")] = "chat",
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=1000, help="Of every point.")] = 3,
    requests_per_user: Annotated[int, typer.Option("--requests-per-user", min=1)] = 6,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Requests of each user before, not measured.")] = 2,
    max_seconds: Annotated[float, typer.Option("--max-seconds", min=0.1, help="Of one measurement.")] = 120,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for one answer.")] = 600,
    limits: Annotated[str | None, typer.Option(
        "--limits", help="What a good answer keeps, in ms: ttft=300,itl=50,tpot=50,e2e=5000.")] = None,
    workload: Annotated[str, typer.Option(
        "--workload", help="random, random:uniform, random:lognormal, or a ShareGPT-format file.")] = "random",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of prompts and arrivals.")] = 1,
    against: Annotated[str | None, typer.Option(
        "--against", help="Address of a second endpoint, asked the same in turn: anything OpenAI-compatible.")] = None,
    against_name: Annotated[str | None, typer.Option("--against-name", help="What the report calls it.")] = None,
    against_key_env: Annotated[str | None, typer.Option(
        "--against-key-env", help="Variable with its key. The service's own is CORRAL_API_KEY.")] = None,
    gpus: Annotated[float | None, typer.Option("--gpus", min=0, help="Of the model, if no profile tells.")] = None,
    against_gpus: Annotated[float | None, typer.Option("--against-gpus", min=0, help="On the other one.")] = None,
    no_stop: Annotated[bool, typer.Option("--no-stop", help="Go on where more users only wait longer.")] = False,
    title: Annotated[str, typer.Option("--title", help="Of the report.")] = "",
    aims: Aims = None, out: Out = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with the run in this folder.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Measure a service from one user to saturation, also beside another endpoint, and write a report."""
    typed = _typed(context)
    if context.invoked_subcommand is not None:
        if typed:
            raise typer.BadParameter(f"{', '.join(typed)}: write it behind `{context.invoked_subcommand}`, if at all")
        return
    if resume is not None:
        if wrong := [each for each in typed if each not in GOES_WITH_RESUME]:
            raise typer.BadParameter(f"a run goes on as it was planned: drop {', '.join(wrong)}", param_hint="--resume")
        _go_on(resume, against_key_env, aims, as_json=as_json)
        return
    from app.bench.asked import Asked, limits_of
    from app.bench.endpoints import other, ours

    wheres = [ours(name, url, gpus)]
    if against is not None:
        wheres.append(other(against, against_name, against_key_env, against_gpus))
    asked = Asked(
        models, concurrency, rate, lengths, kinds, repeats, requests_per_user, warmup, max_seconds, timeout,
        limits_of(limits), workload, seed, stop=not no_stop, title=title,
    )  # fmt: skip
    folder = out or Path(f"bench-{datetime.now():%Y-%m-%d-%H%M%S}")
    _begin(asked, wheres, _settings(name, url, profile), folder, aims, as_json=as_json)


@bench_commands.command()
def compare(
    before: Annotated[Path, typer.Argument(help="Folder of a run.")],
    after: Annotated[Path, typer.Argument(help="Folder of a later one.")],
    out: Annotated[Path | None, typer.Option("--out", help="Also write this file: .html, else Markdown.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Mark what changed between two runs beyond the noise of their repeats."""
    from app.bench import show
    from loadtests.report.compare import comparison_html, comparison_markdown
    from loadtests.sweep.changes import cautions, changes
    from loadtests.sweep.folder import read_run

    with _told():
        runs = read_run(before), read_run(after)
        found = changes(*runs)
        if out is not None:
            text = comparison_html if out.suffix == ".html" else comparison_markdown
            _write(out, text(*runs, found))
    if as_json:
        print_json({"changes": [each.model_dump(mode="json") for each in found], "differs": cautions(*runs)})
    else:
        typer.echo(show.comparison(*runs, found), nl=False)


@bench_commands.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")], aims: Aims = None, as_json: Json = False
) -> None:
    """Write the report of a run anew, also of one that was killed or still runs."""
    from app.bench.asked import aims_of
    from app.bench.measure import report as write
    from app.bench.measure import told_of

    command, before = told_of(folder)
    found = aims_of(aims) or before
    with _told():
        run = write(folder, command, found)
    _require(_printed(run, folder, command, found, as_json=as_json))


def _typed(context: typer.Context) -> list[str]:
    """The options that were given on the command line."""
    named = ((each.opts[0], context.get_parameter_source(str(each.name))) for each in context.command.params)
    return [option for option, source in named if source is not None and source.name == "COMMANDLINE"]


def _settings(name: str, url: str | None, profile: str | None) -> Settings | None:
    from app.bench.configuration import settings_of

    return settings_of(name, url, profile)


def _begin(
    asked: Asked, wheres: Sequence[Where], settings: Settings | None, folder: Path, aims: str | None, *, as_json: bool
) -> None:
    from app.bench.asked import aims_of
    from app.bench.measure import new_task, require_place

    found = aims_of(aims)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    with _told():
        require_place(folder)
        task = interruptible(new_task(asked, wheres, settings, folder, command, found))
    for why in task.left_out:
        print_error(f"left out: {why}")
    _measure(task, as_json=as_json)


def _go_on(folder: Path, key_variable: str | None, aims: str | None, *, as_json: bool) -> None:
    from app.bench.asked import aims_of
    from app.bench.measure import resumed_task

    found = aims_of(aims)
    with _told():
        task = interruptible(resumed_task(folder, key_variable, found))
    if task is not None:
        for notice in task.notices:
            print_error(f"note: {notice}")
        _measure(task, as_json=as_json)
        return
    print_error(f"{folder} is whole: everything was measured before, and only its report is written anew")
    report(folder, aims, as_json=as_json)


def _measure(task: Task, *, as_json: bool) -> None:
    """Measure, and write the report of what was measured, however that ends."""
    from app.bench import measure

    try:
        with _told():
            interruptible(measure.measure(task, _board(quiet=as_json)))
    except KeyboardInterrupt:
        with suppress(BenchError):  # nothing had begun
            measure.report(task.folder, task.command, task.aims)
            print_error(f"{task.folder} keeps what was measured; `corral bench --resume {task.folder}` goes on")
        raise
    with _told():
        run = measure.report(task.folder, task.command, task.aims)
    missed = _printed(run, task.folder, task.command, task.aims, as_json=as_json)
    measure.require_answers(run)
    _require(missed)


def _board(*, quiet: bool) -> Board:
    from rich.console import Console

    from loadtests.sweep.board import board_of

    return board_of(Console(stderr=True, quiet=quiet))


def _printed(run: Run, folder: Path, command: str, aims: Sequence[Aim], *, as_json: bool) -> int:
    """How many aims are missed."""
    from app.bench import show

    found = show.contents(run, command, aims)
    if as_json:
        print_json(show.as_json(found, folder))
    else:
        typer.echo(show.text(found, folder), nl=False)
    return show.missed(found.judged)


def _require(missed: int) -> None:
    """Raises typer.Exit where an aim is missed."""
    if missed:
        print_error(f"{missed} of the aims {'is' if missed == 1 else 'are'} missed")
        raise typer.Exit(1)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from None


@contextmanager
def _told() -> Iterator[None]:
    """A folder or a plan that is at fault, in the command's own terms: exit codes 3 and 2."""
    try:
        yield
    except (PlanError, WorkloadError) as error:
        raise typer.BadParameter(str(error)) from None
    except BenchError as error:
        raise SettingsError(str(error)) from None
