"""`corral bench` as typed: what it asks whom, what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.unit.conftest import Corral
from tests.unit.load_bench import QUICK, WRITTEN, Watched, measured, told
from tests.unit.load_client_fakes import Endpoint


def test_a_whole_sweep(bench_drawing: Path, serving: Any, corral: Corral) -> None:
    url = serving(Endpoint(corral=True, version=None))
    code, out, error = corral(f"bench --url {url} {QUICK} --limits ttft=60000,itl=60000")
    assert code == 0, error
    assert "small: 41 in, 4 out tokens, times in ms" in out
    assert "small, chat, streamed, 41 in, 4 out: holds at least 2 concurrent users under" in out
    assert out.splitlines()[-1].startswith("The whole report: found/report.html, found/report.md")
    assert "[2/2] corral, small, chat, 41:4 tokens, users, 2 users" in error
    assert {path.name for path in (bench_drawing / "found").iterdir()} == WRITTEN
    assert "<svg" in (bench_drawing / "found" / "report.html").read_text()
    assert told(bench_drawing / "found")["run"]["plan"]["sides"][0]["name"] == "corral"


def test_json_is_the_report(bench_folder: Path, serving: Any, corral: Corral) -> None:
    code, out, error = corral(f"bench --url {serving(Endpoint())}/v1 {QUICK} --rate 200 --max-seconds 0.2 --json")
    assert (code, error) == (0, "")
    found = json.loads(out)
    assert found["folder"] == "found"
    assert [each["point"]["rate"] for each in found["aggregates"]] == [None, None, 200.0]
    assert found["run"]["plan"]["sides"][0]["name"] == "endpoint"


def test_without_names_it_asks_all_that_chat(bench_folder: Path, serving: Any, corral: Corral) -> None:
    cards = [
        {"id": "small"}, {"id": "large"}, {"id": "vectors", "task": "embed"}, {"id": "gone", "state": "failed"},
        {"id": "tribunal"}, {"id": "rag/handbook"},
    ]  # fmt: skip
    url = serving(Listing([card if isinstance(card, dict) else {"id": card} for card in cards]))
    assert corral(f"bench --url {url} {QUICK}")[0] == 0
    assert {each["point"]["model"] for each in measured(bench_folder / "found")} == {"small", "large"}


class Listing(Endpoint):
    """An endpoint with a list of models like Corral's own."""

    def __init__(self, cards: list[dict[str, str]]) -> None:
        super().__init__(models=tuple(card["id"] for card in cards))
        self.cards = cards

    def _get(self, path: str) -> Any:

        return web.json_response({"data": self.cards}) if path == "/v1/models" else super()._get(path)


def test_two_endpoints_in_turn_each_with_its_own_key(
    bench_folder: Path, serving: Any, corral: Corral, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = Watched(corral=True, version=None, key="ours"), Watched(key="theirs", models=("small", "beside"))
    monkeypatch.setenv("CORRAL_API_KEY", "ours")
    monkeypatch.setenv("OTHER_KEY", "theirs")
    line = f"bench --url {serving(ours)} --against {serving(other)} {QUICK} --repeats 2"
    code, _, error = corral(line)
    assert (code, error.count("\n")) == (6, 1)
    assert "refuses to answer without a key" in error
    code, out, error = corral(f"{line} --against-key-env OTHER_KEY")
    assert code == 0, error
    assert ours.keys == {"Bearer ours"}
    assert other.keys == {None, "Bearer theirs"}
    turns = [(each["point"]["concurrency"], each["repeat"], each["side"]) for each in measured(bench_folder / "found")]
    assert turns == [(users, repeat, side) for users in (1, 2) for repeat in (0, 1) for side in ("corral", "vllm")]
    assert "corral over vllm" in out
    assert [body["messages"] for body in ours.measured] == [body["messages"] for body in other.measured]
    for path in (bench_folder / "found").iterdir():
        assert "theirs" not in path.read_text()


def test_models_that_only_one_has_are_not_compared(bench_folder: Path, serving: Any, corral: Corral) -> None:
    ours, other = serving(Endpoint(models=("small", "large"))), serving(Endpoint(models=("small",)))
    assert corral(f"bench --url {ours} --against {other} {QUICK}")[0] == 0
    assert {each["point"]["model"] for each in measured(bench_folder / "found")} == {"small"}
    code, _, error = corral(f"bench --url {ours} --against {other} {QUICK} --models large --out more")
    assert (code, error.count("\n")) == (2, 1)
    assert "has no model 'large'; it has small" in error


def test_a_wrong_model_is_told_the_right_ones(bench_folder: Path, serving: Any, corral: Corral) -> None:
    endpoint = Endpoint(models=("small", "large"))
    code, out, error = corral(f"bench --url {serving(endpoint)} --models small,huge")
    assert (code, out) == (2, "")
    assert "has no model 'huge'; it has small, large" in error
    assert not endpoint.asked
    assert not list(bench_folder.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--models small,tribunal", "'tribunal' needs --kinds tribunal, and asked is chat: add it, or leave"),
        ("--models rag/handbook", "'rag/handbook' needs --kinds rag, and asked is chat"),
        ("--models small --kinds tribunal", "'small' needs --kinds chat or single or bulk, and asked is tribunal"),
        ("--models small,vectors", "'vectors' does not chat (its task is embed): leave it out"),
    ],
)
def test_no_model_that_was_named_is_dropped(
    bench_folder: Path, serving: Any, corral: Corral, options: str, said: str
) -> None:
    endpoint = Listing(
        [{"id": "small"}, {"id": "tribunal"}, {"id": "rag/handbook"}, {"id": "vectors", "task": "embed"}]
    )
    code, out, error = corral(f"bench --url {serving(endpoint)} {QUICK} {options}")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert said in error
    assert not endpoint.measured


def test_gpus_are_of_one_model(bench_folder: Path, serving: Any, corral: Corral) -> None:
    url, other = serving(Endpoint(models=("small", "large"))), serving(Endpoint(models=("small", "large")))
    code, _, error = corral(f"bench --url {url} {QUICK} --gpus 5")
    assert (code, error.count("\n")) == (2, 1)
    assert "--gpus" in error
    assert "5 GPUs are of one model, and several are measured (small, large): choose one with --models" in error
    code, _, error = corral(f"bench --url {url} {QUICK} --against {other} --against-gpus 5")
    assert (code, "--against-gpus" in error) == (2, True)
    assert corral(f"bench --url {url} {QUICK} --gpus 4 --models small")[0] == 0
    figures = measured(bench_folder / "found")[0]["figures"]
    assert figures["output_tokens_per_s_per_gpu"] == pytest.approx(figures["output_tokens_per_s"] / 4)


def test_a_file_is_asked_with_its_own_lengths(bench_folder: Path, serving: Any, corral: Corral) -> None:
    turns = [{"from": "human", "value": "how long may a job run"}, {"from": "gpt", "value": "two days at most"}]
    (bench_folder / "talks.json").write_text(json.dumps([{"conversations": turns}]))
    url = serving(Endpoint(context=2048))
    code, out, error = corral(f"bench --url {url} {QUICK} --lengths 4000:4 --workload talks.json")
    assert code == 0, error
    assert "small: lengths of the file, times in ms" in out
    assert "small, chat, streamed, lengths of the file: " in out
    assert "4,000 in" not in (bench_folder / "found" / "report.md").read_text()


def test_aims_decide_the_exit_code(bench_folder: Path, serving: Any, corral: Corral) -> None:
    aims = "--aims 'failed_share<=0, ttft_p50<=0.000001@1+2, itl_p50<=1@64:large'"
    code, out, error = corral(f"bench --url {serving(Endpoint())} {QUICK} {aims}")
    assert code == 1
    assert error.endswith("corral: 3 of the aims are missed\n")
    assert out.count("kept, within the noise: failed requests at most 0 share") == 2
    assert out.count("missed, within the noise: TTFT p50 at most 1e-06 ms") == 2
    assert "not measured: ITL p50 at most 1 ms" in out
    assert corral("bench report found --aims failed_share<=0")[0] == 0
    assert [each["aim"]["figure"] for each in told(bench_folder / "found")["aims"]] == ["failed_share"] * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--concurrency many", "concurrency: 'many' is not a whole number"),
        ("--rate 0", "rate: 0 is not a number above 0"),
        ("--lengths 128", "lengths: '128' is not INPUT:OUTPUT in tokens"),
        ("--lengths 2000:100", "small takes 2048 tokens; 2000 of input and 100 of output are 2100"),
        ("--kinds chat,song", "kinds: there is no 'song'; there are chat"),
        ("--kinds tribunal", "tribunal has no model to ask; the service has none for it"),
        ("--models ,", "--models: ',' has nothing in it"),
        ("--limits ttft", "'ttft' is none of ttft=MS, itl=MS, tpot=MS, e2e=MS"),
        ("--limits ttft=-1", "--limits"),
        ("--aims itl_p95=10", "FIGURE[.ratio|.difference]<=NUMBER"),
        ("--aims itl_p42<=10", "no figure is called 'itl_p42'"),
        ("--kinds chat,bulk --rate 1", "rate: bulk calls have none"),
        ("--lengths 4:4,8:4 --workload talks.json", "lengths: a file's conversations have their own"),
        ("--against http://me:cret@there", "an address has no name and no password in it, and no @: write 'there'"),
        ("--workload nowhere.json", "workload: nowhere.json: No such file"),
        ("--against ftp://there", "is no address of an endpoint"),
        ("--against http://127.0.0.1:9 --against-key-env NONE", "the environment has no NONE"),
        ("--repeats 0", "--repeats"),
    ],
)
def test_what_is_typed_wrong(bench_folder: Path, serving: Any, corral: Corral, options: str, said: str) -> None:
    endpoint = Endpoint(context=2048)
    code, out, error = corral(f"bench --url {serving(endpoint)} {options}")
    assert (code, out) == (2, "")
    assert said in error
    assert error.count("\n") == 1
    assert not endpoint.measured
    assert not list(bench_folder.iterdir())


def test_points_that_do_not_fit_are_left_out_and_told(bench_folder: Path, serving: Any, corral: Corral) -> None:
    url = serving(Endpoint(context=64))
    code, _, error = corral(f"bench --url {url} {QUICK} --lengths 41:4,60:60")
    assert code == 0
    assert "left out: small takes 64 tokens; 60 of input and 60 of output are 120" in error
    assert len(measured(bench_folder / "found")) == 2
    assert "are 120" in (bench_folder / "found" / "report.md").read_text()


def test_folders_that_cannot_be_used(bench_folder: Path, serving: Any, corral: Corral) -> None:
    url = serving(Endpoint())
    (bench_folder / "file").write_text("mine")
    code, _, error = corral(f"bench --url {url} {QUICK} --out file/found")
    assert code == 3
    assert "file/found cannot be written" in error
    assert corral(f"bench --url {url} {QUICK}")[0] == 0
    code, _, error = corral(f"bench --url {url} {QUICK}")
    assert code == 3
    assert "found holds a run already: go on with --resume found, or choose another --out" in error
    for line in ("bench --resume nowhere", "bench report nowhere", "bench compare found nowhere"):
        code, out, error = corral(line)
        assert (code, out) == (3, "")
        assert "nowhere holds no run" in error


def test_comparing_two_runs(bench_folder: Path, serving: Any, corral: Corral) -> None:
    url = serving(Endpoint())
    for folder in ("before", "after"):
        assert corral(f"bench --url {url} {QUICK} --repeats 3 --out {folder}")[0] == 0
    code, out, _ = corral("bench compare before after --out changes.html")
    assert code == 0
    assert "changed beyond the noise." in out
    assert (bench_folder / "changes.html").read_text().startswith("<!DOCTYPE html>")
    found = json.loads(corral("bench compare before after --json")[1])
    assert {each["figure"] for each in found["changes"]} >= {"ttft_p50", "requests_per_s"}
    assert corral("bench compare before after --out nowhere/changes.md")[0] == 3
    assert corral("bench --seed 2 compare before after")[0] == 2


def test_a_report_is_written_anew_with_its_command_and_aims(bench_folder: Path, serving: Any, corral: Corral) -> None:
    assert corral(f"bench --url {serving(Endpoint())} {QUICK} --aims failed_share<=0")[0] == 0
    before = told(bench_folder / "found")
    (bench_folder / "found" / "report.html").unlink()
    code, out, _ = corral("bench report found --json")
    assert code == 0
    assert {"folder": "found", **before} == json.loads(out)
    assert told(bench_folder / "found") == before
    assert (bench_folder / "found" / "report.html").exists()
    (bench_folder / "found" / "report.json").write_text("{")
    assert corral("bench report found")[0] == 0
    assert told(bench_folder / "found")["aims"] == []
