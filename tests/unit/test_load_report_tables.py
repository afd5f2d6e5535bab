"""The tables, the summary, and the paper beside ours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtests.client.engine import UNREAD
from loadtests.records import EngineFigures, Interval, Kind, Limits, Run
from loadtests.report import columns, paper, setup, summary, tables
from loadtests.report.contents import contents_of
from loadtests.report.document import Section, Table
from loadtests.report.tables import towards
from tests.unit.load_report import CORRAL, MACHINE, OTHER, a_run, failed, with_plan, with_record

DASH = "\N{EN DASH}"
NO_COUNT = "1 of 3 answers told no token count: this measurement has no tokens per second"


def row(table: Table, number: int = 0) -> dict[str, str]:
    """Heads -> texts, of a column under a group `group: label`."""
    heads = [f"{each.group}: {each.label}".removeprefix(": ") for each in table.columns]
    return dict(zip(heads, (each.text for each in table.rows[number].cells), strict=True))


def why(section: Section, table: Table, label: str, number: int = 0) -> list[str]:
    place = [each.label for each in table.columns].index(label)
    return [section.notes[note - 1] for note in table.rows[number].cells[place].notes]


def without_tokens(run: Run) -> Run:
    gone = dict.fromkeys(("output_tokens_per_s", "output_tokens_per_s_per_gpu", "gpu_seconds_per_1k_tokens", "tpot"))
    return replace(
        run,
        measurements=tuple(
            each.model_copy(update={"figures": each.figures.model_copy(update=gone), "notices": (NO_COUNT,)})
            for each in run.measurements
        ),
    )


def test_every_point_has_a_row_in_each_table() -> None:
    contents = contents_of(a_run(sides=(CORRAL, OTHER)))
    section = tables.points(contents)
    assert [len(each.rows) for each in section.tables] == [12, 12, 12]
    throughput, latencies, engine = section.tables
    assert [each.head for each in throughput.rows[:3]] == ["1 user, corral", "1 user, vllm", "2 users, corral"]
    assert {each.group for each in throughput.rows} == {
        "llama-3.2-1b: 128 in, 128 out tokens", "llama-3.1-70b: 128 in, 128 out tokens",
    }  # fmt: skip
    assert DASH not in row(throughput).values()
    assert len(row(latencies)) == 16
    assert row(engine)["KV cache in use, most"] == "37 %"
    assert row(engine)["Prefix hits"] == "25 %"
    assert section.notes == ()


def test_failed_requests_are_told_by_kind() -> None:
    table = tables.points(contents_of(a_run(loads=(128,)))).tables[0]
    assert row(table)["Failed"] == "6 (6 overload)"


def test_a_point_without_an_answer_says_so_at_every_figure() -> None:
    run = a_run(models=("m",), loads=(1,))
    section = tables.points(contents_of(replace(run, measurements=[failed(each, "gone") for each in run.measurements])))
    latencies = section.tables[1]
    assert set(row(latencies).values()) == {DASH}
    assert why(section, latencies, "p50") == [columns.NO_ANSWER]
    assert why(section, section.tables[2], "Preemptions") == [columns.NO_ENGINE]
    assert [section.notes[note - 1] for note in latencies.rows[0].notes] == ["gone"]


def test_a_missing_token_count_is_explained_by_its_notice() -> None:
    section = tables.points(contents_of(without_tokens(a_run(models=("m",), loads=(1,)))))
    throughput = section.tables[0]
    assert row(throughput)["Output tokens/s"] == DASH
    assert why(section, throughput, "Output tokens/s") == [NO_COUNT]
    assert why(section, throughput, "GPU-seconds per 1,000 tokens") == [NO_COUNT]


@pytest.mark.parametrize(("gpus", "reason"), [(None, columns.NO_GPUS), (0.0, columns.NO_GPU)])
def test_figures_per_gpu_need_gpus(gpus: float | None, reason: str) -> None:
    run = a_run(models=("m",), loads=(1,), sides=(CORRAL.model_copy(update={"gpus": gpus}),))
    section = tables.points(contents_of(run))
    assert why(section, section.tables[0], "Output tokens/s per GPU") == [reason]


def test_a_tribunal_has_no_figure_per_gpu() -> None:
    run = a_run(models=("tribunal",), loads=(1,))
    asked = [
        each.model_copy(
            update={
                "point": each.point.model_copy(update={"kind": Kind.TRIBUNAL}),
                "figures": each.figures.model_copy(update={"output_tokens_per_s_per_gpu": None}),
            }
        )
        for each in run.measurements
    ]
    run = with_plan(replace(run, measurements=asked), points=(asked[0].point,))
    section = tables.points(contents_of(run))
    assert why(section, section.tables[0], "Output tokens/s per GPU") == [columns.SEVERAL]


@pytest.mark.parametrize(
    ("gpus_of", "said"),
    [
        ({"a": 1, "b": 4}, "a 1 GPU, b 4 GPUs"),
        ({"a": 2, "b": 2}, "2 GPUs"),
        ({"a": 0, "b": 0}, "no GPU"),
        ({"a": 1}, "a 1 GPU, b GPUs not known"),
        ({}, "GPUs not known"),
    ],
)
def test_the_set_up_tells_the_gpus_of_each_model(gpus_of: dict[str, float], said: str) -> None:
    side = CORRAL.model_copy(update={"gpus": None, "gpus_of": gpus_of})
    points = setup.section(contents_of(a_run(models=("a", "b"), loads=(1,), sides=(side,)))).points
    assert points[0].endswith(f", Corral 0.1.0, {said}")


def test_main_latencies_have_their_interval_and_the_others_none() -> None:
    latencies = row(tables.points(contents_of(a_run(models=("m",), loads=(1,)))).tables[1])
    spanned = {head for head, text in latencies.items() if " to " in text}
    assert spanned == {
        f"{name}: {part}" for name in ("TTFT, ms", "ITL, ms", "End to end, ms") for part in ("p50", "p95")
    }
    single = row(tables.points(contents_of(a_run(models=("m",), loads=(1,), repeats=1))).tables[1])
    assert not [text for text in single.values() if "(" in text]


def test_missing_engine_figures_are_explained_by_their_notice() -> None:
    run, said = a_run(models=("m",), loads=(1,)), "no engine figures: http://10.0.0.7:8000/metrics: 404"
    silent = [
        each.model_copy(
            update={"figures": each.figures.model_copy(update={"engine": None}), "notices": (said, "something else")}
        )
        for each in run.measurements
    ]
    section = tables.points(contents_of(replace(run, measurements=silent)))
    assert why(section, section.tables[2], "Preemptions") == [said]


def test_gauges_that_nobody_read_are_explained_by_their_notice() -> None:
    run = a_run(models=("m",), loads=(1,))
    said = f"{UNREAD}: it was too short"
    short = [
        each.model_copy(
            update={
                "figures": each.figures.model_copy(update={"engine": EngineFigures(generation_tokens=5)}),
                "notices": (said,),
            }
        )
        for each in run.measurements
    ]
    section = tables.points(contents_of(replace(run, measurements=short)))
    assert why(section, section.tables[2], columns.KV_CACHE) == [said]
    assert why(section, section.tables[2], "Prefix hits") == [columns.NO_LOOKUP]
    assert why(section, section.tables[2], "Preemptions") == [columns.NO_FIGURE]


def test_a_file_is_told_as_such_everywhere() -> None:
    run = a_run(loads=(1, 2, 128))
    own = {"own_lengths": True}
    points = tuple(each.model_copy(update=own) for each in run.record.plan.points)
    measured = [each.model_copy(update={"point": each.point.model_copy(update=own)}) for each in run.measurements]
    contents = contents_of(replace(with_plan(run, points=points), measurements=measured))
    assert {each.group for each in tables.points(contents).tables[0].rows} == {
        "llama-3.2-1b: lengths of the file", "llama-3.1-70b: lengths of the file",
    }  # fmt: skip
    assert "Lengths: ours lengths of the file; the paper's" in setup.differences(contents)[2]
    assert "128 in" not in f"{paper.section(contents.claimed, (), sides=False)}{summary.section(contents)}"


def test_without_limits_there_is_no_goodput() -> None:
    section = tables.points(contents_of(with_plan(a_run(loads=(1,)), limits=Limits())))
    assert section.texts[1] == "No limits were stated."
    assert "Goodput, requests/s" not in row(section.tables[0])


def test_nothing_measured_has_no_tables() -> None:
    section = tables.points(contents_of(replace(a_run(), measurements=())))
    assert (section.tables, section.texts) == ((), ("Nothing was measured.",))


def test_the_engines_figures_are_put_together() -> None:
    one = EngineFigures(running_max=3, waiting_mean=1.0, queue_time_mean_ms=2.0, preemptions=1)
    two = EngineFigures(running_max=5, waiting_mean=2.0, queue_time_mean_ms=4.0, preemptions=2)
    both = columns.engine_of([one, None, two])
    assert both == EngineFigures(running_max=5, waiting_mean=1.5, queue_time_mean_ms=3.0, preemptions=3)
    assert columns.engine_of([None]) is None
    assert columns.prefix_share(EngineFigures(prefix_queries=0, prefix_hits=0)) is None


def test_ratios_stand_where_both_sides_answered() -> None:
    run = a_run(models=("llama-3.2-1b",), loads=(1, 2), sides=(CORRAL, OTHER))
    broken = [
        failed(each) if each.side == "vllm" and each.point.concurrency == 2 else each for each in run.measurements
    ]
    section = tables.sides(contents_of(replace(run, measurements=broken)))
    assert section is not None
    assert section.title == "corral over vllm"
    first = row(section.tables[0])
    assert first["output tokens/s"].startswith("1.0")
    assert tables.sides(contents_of(a_run(loads=(1,)))) is None


def test_sides_without_a_pair_have_words_instead_of_a_table() -> None:
    section = tables.sides(contents_of(replace(a_run(sides=(CORRAL, OTHER)), measurements=())))
    assert section is not None
    assert section.tables == ()


@pytest.mark.parametrize(
    ("low", "high", "lower", "tone"),
    [
        (0.9, 0.99, True, "good"), (0.9, 0.99, False, "bad"), (1.1, 1.2, True, "bad"), (0.9, 1.1, True, ""),
        (None, None, True, ""),
    ],
)  # fmt: skip
def test_better_and_worse_need_the_whole_interval(
    low: float | None, high: float | None, lower: bool, tone: str
) -> None:
    assert towards(Interval(value=1, low=low, high=high), lower) == tone


def test_the_paper_stands_beside_ours_by_size() -> None:
    contents = contents_of(a_run(models=("llama-3.2-1b", "llama-3.1-8b", "smollm2-135m"), loads=(1, 2)))
    assert [(each.claim.size, each.users, each.requests > 0) for each in contents.claimed] == [
        ("1b", 2, True), ("1b", 128, False), ("8b", 2, True), ("8b", 128, False),
    ]  # fmt: skip
    section = paper.section(contents.claimed, setup.differences(contents), sides=False)
    (table,) = section.tables
    assert [row(table, number)["The paper"] for number in range(4)] == [
        "not said", "128 at once below 50 ms", "saturates at 2, more than 2 s", "not said",
    ]  # fmt: skip
    assert row(table, 0)["Ours, if the paper's latency is: of a token"].endswith(": below 50 ms")
    assert row(table, 2)["Ours, if the paper's latency is: of a whole answer"].endswith(": below 2 s")
    assert row(table, 1)["Ours failed"] == "not measured"
    assert section.notes == (paper.NO_FIGURE,)
    assert "saturate" in table.rows[0].group
    assert section.points[0].startswith("Hardware: ours 2 x NVIDIA H200")


def test_a_run_without_the_papers_sizes_says_so() -> None:
    section = paper.section(contents_of(a_run(models=("m",), loads=(2,))).claimed, (), sides=False)
    assert section.texts == (paper.UNKNOWN, paper.NOTHING)
    assert section.tables == ()


def test_the_summary_tells_failures_and_an_early_end() -> None:
    run = with_record(a_run(loads=(1, 128), sides=(CORRAL, OTHER)), ended_because="the disk is full")
    section = summary.section(contents_of(run))
    assert [each.title for each in section.cards] == ["llama-3.2-1b", "llama-3.1-70b"]
    assert section.cards[0].texts[0].startswith("corral: holds ")
    assert section.points[0] == "24 of 4,644 requests failed: 24 overload. They are counted, and are in no latency."
    assert section.points[1] == "The run ended before everything was measured: the disk is full."
    assert section.points[2].startswith("corral beside vllm, least to most over all points: ")


def test_the_summary_of_a_good_run_and_of_none() -> None:
    good = summary.section(contents_of(a_run(models=("m",), loads=(1,), repeats=1)))
    assert good.points[0] == "None of 3 requests failed."
    assert good.points[-1].startswith("Each point was measured once")
    nothing = summary.section(contents_of(replace(with_record(a_run(), ended_at=None), measurements=())))
    assert nothing.points[:2] == ("Nothing was measured.", "The run has not ended; this is what it measured so far.")
    assert {each.texts for each in nothing.cards} == {("Not measured.",)}


def test_a_shared_machine_is_told() -> None:
    run = with_record(a_run(loads=(1,)), machine=MACHINE.model_copy(update={"same_machine": True, "gpus": ()}))
    assert setup.SAME_MACHINE in summary.section(contents_of(run)).points
    assert setup.differences(contents_of(run))[0].startswith("Hardware: ours no GPU, AMD EPYC 9654;")


@pytest.mark.parametrize(
    "configuration",
    [
        {"models": {"m": {"engine": {"load_format": "dummy"}}}},
        {"arguments": ["--model", "m", "--load-format", "dummy"]},
        {"arguments": ["--load-format=dummy"]},
    ],
)
def test_random_weights_are_found_in_a_configuration(configuration: dict[str, object]) -> None:
    assert setup.about_weights(configuration) == [setup.DUMMY]


def test_real_weights_and_pocket_models_are_told_apart() -> None:
    assert setup.about_weights({"arguments": ["--load-format", "auto", "dummy"]}) == []
    assert setup.about_weights({"models": {"a": {"source": "pocket:pocket-1b"}}}) == [setup.POCKET]
