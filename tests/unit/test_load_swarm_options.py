from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loadtests.records import Kind, Limits
from loadtests.swarm.arguments import ARGUMENTS, BY_FIELD, Argument, Parser, add_arguments
from loadtests.swarm.errors import OptionError
from loadtests.swarm.look import look_at
from loadtests.swarm.mix import mix_of
from loadtests.swarm.questions import Asking
from loadtests.swarm.settings import Settings
from loadtests.swarm.thinking import thinking_of
from tests.unit.load_client_fakes import MODEL, Endpoint, serving


def settings(**changes: Any) -> Settings:
    return Settings.of(SimpleNamespace(**{each.field: each.default for each in ARGUMENTS} | changes))


def test_a_mix_has_the_kinds_that_weigh_something() -> None:
    assert mix_of("chat=8, single=2.5,bulk=0,rag") == {Kind.CHAT: 8, Kind.SINGLE: 2.5, Kind.RAG: 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chatt=1", "'chatt' is no kind of user; there are chat, single, bulk, tribunal, rag"),
        ("chat=0,bulk=0", "all weights are 0"),
        ("chat=-1", "mix: chat: '-1' is no number from 0 on"),
        ("chat=nan", "'nan' is no number"),
        ("chat=inf", "'inf' is no number"),
        ("chat=many", "'many' is no number"),
        ("chat=1,chat=2", "chat is given twice"),
        ("chat=1,", "'' is no kind of user"),
    ],
)
def test_a_mix_that_is_none_says_why(text: str, said: str) -> None:
    with pytest.raises(OptionError, match=re.escape(said)):
        mix_of(text)


def test_without_a_mix_there_is_chat_or_what_the_command_line_names() -> None:
    unset, mixed = settings(), settings(mix="bulk=3")
    assert [unset.weight(Kind.CHAT, False), unset.weight(Kind.BULK, False), unset.weight(Kind.BULK, True)] == [1, 0, 1]
    assert [mixed.weight(Kind.CHAT, True), mixed.weight(Kind.BULK, False)] == [0, 3]


@pytest.mark.parametrize("text", ["0", "2", "fixed:2", "uniform:1:5", "exponential:3", "lognormal:3", "lognormal:3:1"])
def test_think_times_have_the_mean_they_say(text: str) -> None:
    dice = random.Random(7)
    drawn = [thinking_of(text).draw(dice) for _ in range(20_000)]
    mean = {"0": 0, "2": 2, "fixed:2": 2}.get(text, 3)
    assert min(drawn) >= 0
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.05)


def test_the_same_dice_think_the_same() -> None:
    assert thinking_of("uniform:1:5").draw(random.Random(1)) == thinking_of("uniform:1:5").draw(random.Random(1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("soon", "'soon' is no think time; give SECONDS, uniform:LOW:HIGH"),
        ("poisson:3", "'poisson:3' is no think time"),
        ("2x", "'2x' is no number"),
        ("-1", "is no think time"),
        ("uniform:1", "uniform takes 2 numbers, not 1"),
        ("lognormal:1:2:3", "lognormal takes 1 or 2 numbers, not 3"),
        ("exponential", "exponential takes 1 number, not 0"),
        ("uniform:5:1", "ends before it begins"),
        ("lognormal:3:9", "'9' is no number from 0 to 3"),
        ("1e9", "is no number from 0 to 86400"),
        ("", "is no think time"),
    ],
)
def test_a_think_time_that_is_none_says_why(text: str, said: str) -> None:
    with pytest.raises(OptionError, match=re.escape(said)):
        thinking_of(text)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("input_tokens", "0", "input-tokens: '0' is no number from 1 to 1e+06"),
        ("bulk_items", "2.5", "is no whole number"),
        ("temperature", "3", "temperature: '3' is no number from 0 to 2"),
        ("itl_ms", "-5", "itl-ms: '-5' is no number"),
        ("workload", "/no/such/file", "workload: /no/such/file: No such file"),
        ("workload", "random:bimodal", "'bimodal' is no distribution"),
        ("json_out", "/no/such/folder/x.json", "json-out: there is no folder /no/such/folder"),
        ("shape", "waves", "'waves' is no shape"),
    ],
)
def test_the_command_line_refuses_what_makes_no_load(name: str, text: str, said: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(said)):
        BY_FIELD[name].read(text)


@pytest.mark.parametrize("argument", ARGUMENTS, ids=lambda each: each.name)
def test_every_default_is_taken_and_keeps_its_type(argument: Argument) -> None:
    assert argument.read(str(argument.default)) == argument.default


def test_the_key_is_no_option() -> None:
    assert not [each.name for each in ARGUMENTS if "key" in each.name]


def test_settings_know_limits_and_paths() -> None:
    read = settings(itl_ms=50.0, json_out="figures.json", think="exponential:3", request_timeout=0.0)
    assert read.limits == Limits(itl_ms=50)
    assert read.json_out == Path("figures.json")
    assert read.timeout_s > 80_000
    assert read.told["itl_ms"] == 50.0


@pytest.mark.parametrize(("context", "words"), [(None, 400), (4096, 400), (512, 100)])
async def test_a_files_conversations_fit_the_models_context(context: int | None, words: int, tmp_path: Path) -> None:
    """A word is about a token; of a context of 512 three quarters are for question and answer."""
    turns = [[("human", "why " * size), ("gpt", "so " * 50)] for size in (100, 400)]
    items = [{"conversations": [{"from": who, "value": text} for who, text in each]} for each in turns]
    (tmp_path / "chats.json").write_text(json.dumps(items))
    async with serving(Endpoint(context=context)) as url:
        found = await asyncio.to_thread(look_at, url, None, MODEL)
    workload = Asking(settings(workload=str(tmp_path / "chats.json")), found, Kind.CHAT).workload()
    assert max(len(workload.prompt(number).text.split()) for number in range(2)) == words


def test_what_a_page_sends_is_checked_as_well() -> None:
    with pytest.raises(OptionError, match="'chatt' is no kind"):
        settings(mix="chatt")


def test_locust_gets_every_option_and_is_bound_to_loopback() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--host", "--web-host", "--master-bind-host", "--stop-timeout"):
        parser.add_argument(name)
    add_arguments(cast(Parser, _Locusts(parser)))
    read = parser.parse_args(["--mix", "chat=1,bulk=1", "--itl-ms", "50"])
    assert (read.web_host, read.master_bind_host, read.host) == ("127.0.0.1", "127.0.0.1", "http://127.0.0.1:8000")
    assert Settings.of(read).mix == {Kind.CHAT: 1, Kind.BULK: 1}


class _Locusts:
    """Locust's parser takes more of each argument than argparse's does."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser, self.set_defaults = parser, parser.set_defaults

    def add_argument(self, name: str, *, env_var: str, include_in_web_ui: bool, **details: Any) -> None:
        assert env_var.startswith("CORRAL_LOAD_")
        assert include_in_web_ui or name == "--json-out"
        self._parser.add_argument(name, **details)
