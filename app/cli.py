"""The `corral` command: parse, call, print. What it does lies in launch.py, plan.py, talk.py and demo.py.

Exit codes: 0 done, 1 a fault of ours, 2 wrong usage, 3 wrong profile, 4 no such service, 5 the service did not
start, 6 the request was refused, 7 the service or the model does not answer, 8 SLURM refused, 9 SLURM is not there or
does not answer, 10 weights could not be fetched, 11 some files could not be ingested, 12 a collection is at
fault, 13 the keys' file is at fault, 14 a change has gone back, 15 a change failed, 16 another change is under way,
130 interrupted.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from app.access.cli import keys
from app.access.key_records import KeysError
from app.access.usage import usage
from app.bench.cli import bench_commands
from app.capacity.cli import plan
from app.change.apply import ChangeFailedError, GoneBackError, UnderWayError
from app.change.cli import HELP as APPLY_HELP
from app.change.cli import apply
from app.change.place import change_of
from app.evaluation.cli import eval_commands
from app.launch import LaunchError, NotRunningError
from app.monitoring.cli import monitoring
from app.monitoring.top import top
from app.options import DEFAULT, Json, Name, Profile, Url
from app.plan import PlanError
from app.retrieval.ask import ask
from app.retrieval.cli import collections, ingest
from app.settings import Settings, SettingsError, load_settings
from app.show import print_error, print_json
from app.submission.cli import slurm
from app.talk import RefusedError, UnreachableError
from app.tribunal.cli import tribunal
from rag.errors import RagError
from slurm.errors import NoSuchJob, Refused, SlurmMissing, Unavailable, Unsure
from slurm.staging import StagingError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(slurm, name="slurm")
app.add_typer(eval_commands, name="eval")
app.add_typer(bench_commands, name="bench")
app.add_typer(collections, name="collections")
app.add_typer(keys, name="keys")

Port = Annotated[int | None, typer.Option("--port", help="Port of the address; overrides the profile.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1)]
Temperature = Annotated[float, typer.Option("--temperature", min=0, max=2)]
INTERRUPTED = 130


def _settings(profile: str | None, port: int | None = None) -> Settings:
    settings = load_settings(profile)
    if port is None:
        return settings
    return settings.model_copy(update={"edge": settings.edge.model_copy(update={"port": port})})


@app.command()
def up(
    profile: Profile = None, name: Name = DEFAULT, port: Port = None, as_json: Json = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the models.")] = 1800,
) -> None:  # fmt: skip
    """Start the service and wait until its models answer; it runs on after this command ends."""
    from app.launch import follow, start, stop
    from app.show import Board, ready_message

    settings = _settings(profile, port)
    start(settings, name, profile or "pocket")
    board = Board(list(settings.models), quiet=as_json)
    try:
        with board:
            for progress in follow(name, timeout):
                board.update(progress)
    except (KeyboardInterrupt, LaunchError) as error:
        if isinstance(error, KeyboardInterrupt):
            stop(name)
        raise
    if as_json:
        print_json(_service_json(progress))
    else:
        ready_message(progress, name)
    if not any(status.state.answers for status in progress.models.values()):
        raise LaunchError("no model could be started; `corral status` says why, `corral down` ends the service")


app.command(help=APPLY_HELP)(apply)


@app.command()
def status(name: Name = DEFAULT, as_json: Json = False) -> None:
    """Show each model's state, and why where it does not serve."""
    from app.launch import look
    from app.show import status_table

    progress = look(name)
    if as_json:
        print_json(_service_json(progress))
    else:
        status_table(progress)
        if change := change_of(progress.state):
            typer.echo(change.sentence)


@app.command()
def down(name: Name = DEFAULT, as_json: Json = False) -> None:
    """End the service and everything it started."""
    from app.launch import stop

    state = stop(name)
    if as_json:
        print_json({"name": name, "address": state.address, "stopped": True})
    else:
        typer.echo(f"{name} at {state.address} has ended.")


@app.command()
def logs(
    model: Annotated[str | None, typer.Argument(help="A model; without one, the service itself.")] = None,
    name: Name = DEFAULT, as_json: Json = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-l", min=0, help="Last lines of each file.")] = 50,
    request: Annotated[str, typer.Option("--request", metavar="ID", help="Only what names this request.")] = "",
) -> None:  # fmt: skip
    """Print the end of the logs, and what comes with --follow."""
    from app.log_files import all_files, files, read

    paths = all_files(name) if request and model is None else files(name, model)
    for file, line in read(paths, lines, follow, about=request):
        if as_json:
            print_json({"file": file.name, "line": line}, compact=True)
        else:
            typer.echo(f"{file.name}: {line}")


app.command()(plan)


@app.command()
def engine(model: Annotated[str, typer.Argument()], profile: Profile = None, as_json: Json = False) -> None:
    """Print how vLLM's own server would run a model with the same engine, to compare or to debug."""
    from deployments.engine import environment, server_arguments

    settings = load_settings(profile)
    spec = next((spec for spec in settings.specs if spec.id == model), None)
    if spec is None:
        raise SettingsError(f"the profile has no model {model!r}; it has {', '.join(settings.models)}")
    if as_json:
        print_json({"model": model, "arguments": server_arguments(spec), "environment": environment(spec)})
    else:
        variables = [f"{name}={shlex.quote(value)}" for name, value in environment(spec).items()]
        typer.echo(shlex.join(["python", "-m", "vllm.entrypoints.openai.api_server", *server_arguments(spec)]))
        typer.echo(f"environment: {' '.join(variables)}")


@app.command(name="serve-config")
def serve_config(
    profile: Profile = None, as_json: Json = False, port: Port = None,
    host: Annotated[str, typer.Option(help="Where Serve listens.")] = "127.0.0.1",
) -> None:  # fmt: skip
    """Print a Ray Serve config; `serve deploy` with it brings up the same applications on any Ray cluster."""
    import yaml

    from app.serve_config import DEFAULT_PORT
    from app.serve_config import serve_config as build

    config = build(load_settings(profile), host, port or DEFAULT_PORT)
    typer.echo(json.dumps(config, indent=2) if as_json else yaml.safe_dump(config, sort_keys=False), nl=False)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads standard input.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the service's last model.")] = None,
    max_tokens: MaxTokens = 256, temperature: Temperature = 0.0, name: Name = DEFAULT, url: Url = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Answer one prompt."""
    from app.talk import Talk

    with Talk.open(name, url) as talk:
        answer = talk.generate(model, sys.stdin.read() if prompt == "-" else prompt, max_tokens, temperature)
    if as_json:
        print_json(answer)
    else:
        typer.echo(answer["text"])


@app.command()
def chat(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the service's last model.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message.")] = None,
    max_tokens: MaxTokens = 512, temperature: Temperature = 0.0, name: Name = DEFAULT, url: Url = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Chat; the answer streams, the history is kept. /help lists what can be typed."""
    from app.talk import Talk, chat_loop

    with Talk.open(name, url) as talk:
        chat_loop(talk, model, system, max_tokens, temperature, as_json=as_json)


app.command()(tribunal)
app.command()(ingest)
app.command()(ask)
app.command()(usage)
app.command()(top)
app.command()(monitoring)


@app.command()
def demo(profile: Profile = None, as_json: Json = False) -> None:
    """Show the whole thing: start, two sizes, one bulk call, a handbook, end with nothing left running."""
    from app.demo import run_demo

    run_demo(_settings(profile), profile or "pocket", as_json=as_json)


@app.command()
def fetch(
    models: Annotated[list[str] | None, typer.Argument(help="Models of the profile; all of them if unset.")] = None,
    profile: Profile = None, as_json: Json = False,
    to: Annotated[str | None, typer.Option("--to", help="Default: corral-USER in cluster.shared.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Hash what is there already, too.")] = False,
) -> None:  # fmt: skip
    """Fetch a profile's weights into a folder that the compute nodes see."""
    from app.fetch import fetch as fetch_weights
    from app.submission.weights import Bars, chosen, weights_folder

    settings = load_settings(profile)
    with Bars(quiet=as_json) as bars:
        reports = fetch_weights(
            chosen(settings, models), weights_folder(settings, to), verify=verify, on_progress=bars.update
        )
    if as_json:
        print_json([report.as_dict() for report in reports])
    else:
        typer.echo("\n".join(report.line() for report in reports))


def _service_json(progress: Any) -> dict[str, Any]:
    models = {model: status.to_json() for model, status in progress.models.items()}
    change = change_of(progress.state)
    state = progress.state
    told = {**state.to_json(), "disk_full": state.disk_full}
    return {**told, "models": models, "change": change.to_json() if change else None}


def _guarded(command: Callable[[], Any]) -> int:
    """Run a command; an error is one line on stderr with the next step, and an exit code of its own."""
    codes: dict[type[Exception], int] = {
        SettingsError: 3, PlanError: 3, NotRunningError: 4, LaunchError: 5, RefusedError: 6, UnreachableError: 7,
        Refused: 8, NoSuchJob: 8, SlurmMissing: 9, Unavailable: 9, Unsure: 9, StagingError: 10,
        RagError: 12, KeysError: 13, GoneBackError: 14, ChangeFailedError: 15, UnderWayError: 16,
    }  # fmt: skip
    try:
        code = command()
        if code == INTERRUPTED:  # typer's answer to a KeyboardInterrupt
            raise KeyboardInterrupt
    except (KeyboardInterrupt, typer.Abort):
        print_error("interrupted")
        return INTERRUPTED
    except typer.TyperException as error:
        if message := error.format_message():
            print_error(f"{message}; --help shows what there is")
        return 2
    except tuple(codes) as error:
        print_error(str(error))
        return next(codes[kind] for kind in type(error).__mro__ if kind in codes)
    return code if isinstance(code, int) else 0


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry of the console script."""
    # A shell starts background jobs with SIGINT ignored; whoever sends it all the same means it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)
    raise SystemExit(_guarded(lambda: app(standalone_mode=False)))


if __name__ == "__main__":
    main()
