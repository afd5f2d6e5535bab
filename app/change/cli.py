"""`corral apply`."""

from __future__ import annotations

from typing import Annotated

import typer

from app.change.place import Place, find
from app.change.plan import Plan, plan_of
from app.change.records import ChangeStatus
from app.options import DEFAULT, Json, Name, Profile
from app.settings import Settings, SettingsError, load_settings
from app.show import print_error, print_json

HELP = """Give a running service another profile, while it goes on serving.

New models appear. Removed ones take no new requests, finish those under way, and end. A changed one is replaced: the
new one is started beside the old one, which ends when the new one answers; where there is no room for both, the old
one ends first. If a model does not become ready, all goes back to how it was. Other models are not disturbed.

Taken without another engine: a model's autoscaling, max_ongoing_requests, max_queued_requests, beside_quiet and
retry_after_s. Everything else of a model, adapters included, takes another one.

Taken without any restart: tribunals; gateway; bulk; edge, but for host and port; rag.model and rag.max_upload.

Not while it runs: edge.host, edge.port, access, ray, cluster, traces, and the rest of rag. Start it anew for those.

Exit codes: 3 the profile is wrong, or says what cannot be changed; 4 no such service; 14 all went back; 15 it failed,
and not all is as before; 16 another change is under way. Ctrl-C ends this command and not the change."""


def apply(
    profile: Profile = None, name: Name = DEFAULT, as_json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    port: Annotated[int | None, typer.Option("--port", help="As it was given to `corral up`.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for a model to become ready.")] = 1800,
) -> None:  # fmt: skip
    settings = load_settings(profile)
    if port is not None:
        settings = settings.model_copy(update={"edge": settings.edge.model_copy(update={"port": port})})
    place, settings = find(name, settings)
    plan = plan_of(place.in_force(), settings)
    if dry_run or not as_json:
        _print(plan, as_json)
    if plan.refusal:
        raise SettingsError(plan.refusal)
    if not dry_run and not plan.empty:
        _change(name, settings, place, (profile or "pocket", timeout), as_json)
    elif not dry_run and as_json:
        print_json(ChangeStatus("", "done", 0, 0, "nothing changes", plan=plan.to_json()).to_json())


def _print(plan: Plan, as_json: bool) -> None:
    from app.change.show import print_plan

    if as_json:
        print_json(plan.to_json())
    else:
        print_plan(plan)


def _change(name: str, settings: Settings, place: Place, how: tuple[str, float], as_json: bool) -> None:
    from app.change.apply import ask, follow, outcome
    from app.change.show import ChangeBoard

    order = ask(place, settings, *how)
    status: ChangeStatus | None = None
    try:
        with ChangeBoard(quiet=as_json) as board:
            for status in follow(place, order):
                board.update(status)
    except KeyboardInterrupt:
        if status is None and place.folder.withdraw():
            print_error("the service had not begun with the change; nothing is changed")
        else:
            print_error(f"the change goes on without this command; `corral status --name {name}` tells how far it is")
        raise
    if as_json and status:
        print_json(status.to_json())
    if status:
        outcome(status)
    if not as_json:
        typer.echo("done: the service has the new profile")
