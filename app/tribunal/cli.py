"""`corral tribunal`: parse, call, print. What it does lies in talk.py and view.py."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing, nullcontext
from typing import Annotated, Any

import typer

from app.options import DEFAULT, Json, Name, Url
from app.show import print_json
from app.talk import Talk
from deployments.tribunal.config import DEFAULT as DEFAULT_TRIBUNAL
from deployments.tribunal.config import Strategy


def tribunal(
    question: Annotated[str, typer.Argument(help="The question; - reads standard input.")],
    named: Annotated[str | None, typer.Option("--tribunal", "-t", help="Default: the service's default.")] = None,
    strategy: Annotated[Strategy | None, typer.Option("--strategy", "-s", help="How it deliberates.")] = None,
    member: Annotated[list[str] | None, typer.Option("--member", "-m", help="A model; once for each.")] = None,
    chair: Annotated[str | None, typer.Option("--chair", help="The model that writes the answer.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Of review, debate or refinement.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="Drafts, where one model drafts all.")] = None,
    budget: Annotated[int | None, typer.Option("--budget", min=1, help="Tokens of all calls together.")] = None,
    deadline: Annotated[float | None, typer.Option("--deadline", help="Seconds for all of it.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Of the answer and each draft.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="For the same draws again.")] = None,
    name: Name = DEFAULT, url: Url = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Have several models draft, review and refine one answer; drafts and reviews are shown as they come."""
    stop = _given(budget_tokens=budget, deadline_s=deadline)
    config = _given(strategy=strategy, members=member, chair=chair, rounds=rounds, samples=samples, stop=stop)
    ask = _given(
        question=sys.stdin.read() if question == "-" else question,
        tribunal=named or (DEFAULT_TRIBUNAL if config else None),  # a config alone would be a whole tribunal's
        config=config, max_tokens=max_tokens, seed=seed,
    )  # fmt: skip
    with Talk.open(name, url) as talk:
        result = _result(talk, ask, quiet=as_json)
    if as_json:
        print_json(result)
    else:
        _verdict(result)


def _given(**options: Any) -> dict[str, Any]:
    """What the person said; the rest is the service's to choose."""
    return {key: value for key, value in options.items() if value not in (None, [], {})}


def _result(talk: Talk, ask: Mapping[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Follow a tribunal to its end, and end it where that is not awaited."""
    from app.tribunal.talk import follow
    from app.tribunal.view import TribunalBoard

    with closing(follow(talk, ask)) as envelopes, nullcontext() if quiet else TribunalBoard() as board:
        for envelope in envelopes:
            if board:
                board.update(envelope)
    result: dict[str, Any] = envelope["result"]
    return result


def _verdict(result: Mapping[str, Any]) -> None:
    """The answer on standard output, how it came about on standard error."""
    from app.tribunal.deliberation import clean
    from app.tribunal.lines import summary

    typer.echo(clean(result["answer"]))
    sys.stdout.flush()
    sys.stderr.write(summary(result))
