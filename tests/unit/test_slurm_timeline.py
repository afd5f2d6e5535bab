"""What a timeline tells: starts, what their parts cost, and pictures of them."""

from __future__ import annotations

import json
import random
import stat
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm.timeline import Event, Start, append, parse_timeline, starts, table, to_json
from slurm.timeline_costs import ModelCosts, cost_rows
from slurm.timeline_picture import svg, text_picture

T = 1_795_250_000
PATH = ("queue", "slurm", "container_and_python", "copy", "ray_head", "ray_nodes", "serve", "engine", "edge", "other")
Story = list[tuple[float, str]]
WHOLE: Story = [
    (0, "submitted login"), (2, "job started n1"), (2.5, "step started n1"), (2.6, "step started n2"),
    (5.5, "agent started n1"), (5.75, "agent started n2"), (7.5, "weights copied n1"), (7.75, "weights copied n2"),
    (11, "head started n1"), (14, "node joined n2"), (15, "edge started n1"), (16, "deployed -"),
    (18, "process a"), (19, "process b"), (20, "weights a"), (22, "weights b"), (25, "warm-up a"), (26, "compile a"),
    (30, "ready a"), (40, "ready b"), (41, "service ready -"), (43, "first token b"),
]  # fmt: skip
LATER: Story = [(900, "node lost n2"), (960, "node joined n2"), (970, "process a"), (999, "ready a")]


def text(story: Story) -> str:
    return "".join(f"{T + at:.3f} {what}\n" for at, what in story)


def told(story: Story) -> list[Start]:
    return starts(parse_timeline(text(story)))


def start(story: Story) -> Start:
    (only,) = told(story)
    return only


def without(*events: str) -> Story:
    return [(at, what) for at, what in WHOLE if what not in events]


def changed(**moments: float) -> Story:
    """WHOLE with events at other times; `_` stands for a space."""
    return [(moments.get(what.removesuffix(" -").replace(" ", "_"), at), what) for at, what in WHOLE]


EVENTS = st.builds(
    Event,
    at=st.integers(0, 9_999_999_999_999).map(lambda ms: float(f"{ms // 1000}.{ms % 1000:03}")),
    what=st.sampled_from(["job started", "ready", "warm-up", "service ready", "successor submitted"]),
    who=st.sampled_from(["-", "n1", "meta-llama/Llama-3.1-8B", 'a<b>&"c"', "höhe", "ready"]),
)


PIECES = st.one_of(
    st.sampled_from(
        ["\n", " ", "\0", ".", "1795250000", "1795250001.250 ", "1795250009.000 job started n1\n", "\u2028"]
    ),
    st.builds(lambda event: f"{event.at:.3f} {event.what} {event.who}\n", EVENTS),
    st.sampled_from(text(WHOLE).splitlines(keepends=True)),
    st.text(max_size=5),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(PIECES))
def test_no_text_breaks_reader_or_picture(pieces: list[str]) -> None:
    events = parse_timeline("".join(pieces))
    assert events == sorted(events, key=lambda event: event.at)
    found = starts(events)
    assert sum(len(each.events) for each in found) == (len(events) if found else 0)
    for each in found:
        assert (each.costs().total or 0) >= 0
        assert ET.fromstring(svg(each, "".join(pieces))).get("width") == "960"
        assert max(map(len, text_picture(each, 60))) <= 60


@settings(deadline=None)
@given(st.lists(EVENTS, unique=True), st.randoms())
def test_doubled_and_mixed_lines_are_read_once_and_in_order(events: list[Event], chance: random.Random) -> None:
    lines = [f"{event.at:.3f} {event.what} {event.who}\n" for event in events] * 2
    chance.shuffle(lines)
    found = parse_timeline("".join(lines))
    assert [event.at for event in found] == sorted(event.at for event in events)
    assert set(found) == set(events)
    assert len(found) == len(events)


@pytest.mark.parametrize(
    "torn",
    [
        "1795250001.123 step sta1795250001.200 ready a\n", "17952500021795250001.200 ready a\n", "ted n1\n", "\n",
        "1795250001.1 ready a\n", "1795250001.100 ready\n", "1795250001.100 ready \n", "nan.000 ready a\n",
        "1795250001.100 ready a\0\0\n", "1795250001.100  ready a\n", "-795250001.100 ready a\n",
    ],
)  # fmt: skip
def test_what_is_torn_is_skipped_alone(torn: str) -> None:
    good = "1795250000.000 ready b\n"
    assert parse_timeline(good + torn + good) == [Event(1795250000.0, "ready", "b")]


def test_a_line_that_is_still_being_written_does_not_count() -> None:
    assert parse_timeline("1795250000.000 ready llama\n1795250000.500 ready lla") == [Event(T, "ready", "llama")]


def test_what_is_appended_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "timeline"
    append(path, "agent started", "n1", lambda: T + 0.25)
    append(path, "ready", "höhe/8b", lambda: T + 1.0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert parse_timeline(path.read_text()) == [
        Event(T + 0.25, "agent started", "n1"),
        Event(T + 1.0, "ready", "höhe/8b"),
    ]


@pytest.mark.parametrize(
    ("what", "who"),
    [
        ("ready\n1.000 ready", "a"), ("ready", "a\n"), ("ready", "a b"), ("ready", ""), ("", "a"), ("ready 2", "a"),
        ("ready", "\0"), ("ready", "\ud800"), ("ready ", "a"),
    ],
)  # fmt: skip
def test_what_could_not_be_read_is_not_appended(tmp_path: Path, what: str, who: str) -> None:
    with pytest.raises(ValueError, match=r"no line of a timeline|surrogates"):
        append(tmp_path / "timeline", what, who)
    assert not (tmp_path / "timeline").exists()


def test_every_part_of_a_start_has_its_seconds() -> None:
    costs = start(WHOLE + LATER).costs()
    assert [getattr(costs, part) for part in PATH] == [2, 0.5, 3, 2, 3.5, 3, 3, 22, 1, 1]
    assert (costs.total, costs.first_token, costs.overhead) == (41, 2, 3.5)
    assert costs.models == {"a": ModelCosts(2, 5, 1, 4, 12), "b": ModelCosts(3, 18, None, None, 21)}


def test_srun_is_told_from_the_container_where_a_shell_says_so() -> None:
    costs = start([*WHOLE, (3.25, "shell started n1")]).costs()
    assert (costs.slurm, costs.container_and_python, costs.overhead) == (1.25, 2.25, 3.5)


def test_nobody_waits_for_what_runs_beside_something_longer() -> None:
    before = start(WHOLE).costs()
    assert start(changed(weights_copied_n2=10.5)).costs() == before
    assert start(changed(edge_started_n1=13)).costs().edge == 0
    deployer = start(changed(deployed=21)).costs()
    assert (deployer.serve, deployer.engine) == (3, 22)
    assert start(changed(edge_started_n1=40.5)).costs().edge == 0.5


def test_a_late_node_says_what_it_was_late_with() -> None:
    costs = start(changed(agent_started_n2=12, weights_copied_n2=12.75)).costs()
    assert (costs.container_and_python, costs.copy, costs.ray_nodes) == (3 + 1, 2 + 0.75, 14 - 12.75)
    copying = start(changed(weights_copied_n2=17)).costs()
    assert (copying.copy, copying.ray_nodes, copying.serve) == (2 + 3, 3, 1)


def test_only_nodes_that_joined_by_the_deployment_were_waited_for() -> None:
    assert start([*WHOLE, (29, "node joined n3")]).costs().ray_nodes == 3
    assert start([*WHOLE, (17, "node lost n2"), (30, "node joined n2")]).costs().ray_nodes == 3
    assert start(changed(node_joined_n2=16.5)).costs().ray_nodes == 5  # by a clock that is ahead


@pytest.mark.parametrize(
    ("missing", "unknown"),
    [
        ("submitted login", {"queue", "total", "other"}), ("head started n1", {"ray_head", "ray_nodes"}),
        ("step started n1", {"slurm", "container_and_python", "overhead"}),
        ("agent started n1", {"container_and_python", "copy", "overhead"}),
        ("node joined n2", {"ray_nodes"}), ("deployed -", set()), ("edge started n1", {"edge"}),
        ("service ready -", {"total", "other", "first_token"}), ("first token b", {"first_token"}),
    ],
)  # fmt: skip
def test_what_is_missing_is_unknown_and_the_rest_is_not(missing: str, unknown: set[str]) -> None:
    costs = start(without(missing)).costs()
    assert {part for part in (*PATH, "total", "first_token", "overhead") if getattr(costs, part) is None} == unknown


def test_a_service_whose_models_are_all_idle_has_no_engine() -> None:
    story = [each for each in WHOLE if each[1].split()[0] not in ("process", "weights", "warm-up", "compile", "ready")]
    costs = start(story).costs()
    assert (costs.serve, costs.engine, costs.models) == (None, None, {})
    assert costs.other == 41 - 15


def test_a_model_that_failed_once_counts_all_it_took() -> None:
    story = [*without("ready a"), (27, "failed a"), (28, "process a"), (31, "weights a"), (33, "ready a")]
    assert start(story).costs().models["a"] == ModelCosts(2 + 3, 5 + 2, 1, 1, 15)
    failed = start([*without("ready a"), (27, "failed a")]).costs()
    assert failed.models["a"] == ModelCosts(2, 5, 1, 1, None)
    assert failed.engine == 22


@settings(deadline=None)
@given(st.sets(st.sampled_from([what for _, what in WHOLE[1:-2]])), st.randoms())
def test_parts_add_up_whatever_is_missing_and_however_clocks_differ(gone: set[str], chance: random.Random) -> None:
    story = [(max(0.0, at + chance.uniform(-0.9, 0.9)), what) for at, what in without(*gone - {"job started n1"})]
    costs = start(story).costs()
    seconds = [getattr(costs, part) or 0.0 for part in PATH]
    assert costs.total is not None
    assert min(seconds) >= 0
    assert sum(seconds) == pytest.approx(costs.total, abs=1e-5)


def test_a_requeued_job_has_another_start() -> None:
    again = [(1130 + at, what) for at, what in WHOLE[1:]]
    first, second = told([*WHOLE, *LATER, (1010, "step ended n2"), (1012, "step ended n1"), *again])
    assert (first.restarts, second.restarts) == (0, 1)
    assert first.costs() == start(WHOLE).costs()
    assert first.events[-1].what == "step ended"
    costs = second.costs()
    assert (costs.queue, costs.total, costs.slurm) == (1132 - 1012, 1132 - 1012 + 39, 0.5)
    assert second.zero == T + 1012


def test_a_slow_clock_moves_nothing_into_the_start_before() -> None:
    again = [(1130 + at, what) for at, what in WHOLE[1:] if what != "agent started n2"]
    _, second = told([*WHOLE, (1131.5, "step ended n1"), (1131.25, "agent started n2"), *again])
    assert second.first("agent started", "n2") == T + 1131.25
    assert second.first("step ended") is None


def test_a_job_that_only_waits_has_no_start() -> None:
    assert told(WHOLE[:1]) == []
    assert start(WHOLE[:2]).costs().queue == 2
    assert start(changed(submitted_login=2.5)).costs().queue == 0


def test_tables_are_for_people() -> None:
    heading, *rows = table(start(WHOLE))
    assert heading == ["  seconds", "     span", "event", "who"]
    assert rows[4] == ["    5.500", "    2.900", "agent started", "n1"]
    assert len(rows) == len(WHOLE)
    costs = {row[0].strip(): row[1:] for row in cost_rows(start(without("edge started n1")).costs())}
    assert costs["engine"] == ["   22.000", " 53.7%"]
    assert costs["b: weights"] == ["   18.000", " 43.9%"]
    assert costs["edge"] == ["        -", "     -"]
    assert costs["first token"] == ["    2.000", "     -"]
    assert "b: compile" not in costs


def test_json_has_it_all() -> None:
    value = json.loads(json.dumps(to_json(start(WHOLE))))
    assert value["events"][4] == {"at": T + 5.5, "what": "agent started", "who": "n1", "seconds": 5.5}
    assert (value["queued_at"], value["restarts"]) == (T, 0)
    assert (value["costs"]["overhead"], value["costs"]["models"]["a"]["warm_up"]) == (3.5, 1)


SVG = "{http://www.w3.org/2000/svg}"


def drawn(picture: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Lane -> piece -> left edge and width."""
    root = ET.fromstring(picture)
    return {
        lane.findtext(f"{SVG}title", ""): {
            bar.get("class", ""): (float(bar.get("x", "nan")), float(bar.get("width", "nan")))
            for bar in lane.iter(f"{SVG}rect")
        }
        for lane in root.iter(f"{SVG}g")
    }


def test_lanes_are_drawn_in_proportion() -> None:
    lanes = drawn(svg(start(WHOLE), "herd"))
    assert list(lanes) == ["queue, SLURM", "n1", "n2", "a", "b"]
    second = lanes["queue, SLURM"]["queue"][1] / 2
    zero = lanes["queue, SLURM"]["queue"][0]
    assert lanes["n1"].keys() == {"container_and_python", "copy", "ray", "joined"}
    assert lanes["a"].keys() == {"process", "weights", "warm-up", "compile", "ready"}
    for lane, piece, begins, seconds in (
        ("n1", "container_and_python", 2.5, 3), ("n2", "ray", 7.75, 6.25),
        ("a", "compile", 26, 4), ("b", "weights", 22, 18),
    ):  # fmt: skip
        assert lanes[lane][piece] == pytest.approx((zero + begins * second, seconds * second), abs=0.1)


@pytest.mark.parametrize("scale", [0.05, 1, 30, 180])
@pytest.mark.parametrize("count", [0, 1, 39])
def test_a_picture_stays_within_its_frame(scale: float, count: int) -> None:
    models = [(18 + number / 10, f"{what} m{number}") for number in range(count) for what in ("process", "ready")]
    picture = svg(start([(at * scale, what) for at, what in (*WHOLE, *models)]), "herd")
    root = ET.fromstring(picture)
    height = float(root.get("height", "nan"))
    assert root.get("width") == "960"
    for bar in root.iter(f"{SVG}rect"):
        assert float(bar.get("x", -1)) >= 0 or bar.get("height") == root.get("height")
        assert float(bar.get("x", 0)) + float(bar.get("width", "nan")) <= 960
        assert float(bar.get("y", 0)) + float(bar.get("height", "nan")) <= height
    ticks = [each.text or "" for each in root.iter(f"{SVG}text") if each.get("class") == "tick"]
    seconds = [float(tick.removesuffix(" s")) for tick in ticks]
    assert 4 <= len(ticks) <= 11
    assert seconds[0] == 0
    assert seconds[-1] <= 44 * scale < seconds[-1] + 2 * seconds[1]


def test_names_are_text_in_a_picture() -> None:
    name = 'a<b>&"c"' + "\u200b" + "'x" * 30
    story = [*WHOLE, (30, f"process {name}"), (35, f"ready {name}")]
    lanes = drawn(svg(start(story), "<&>\0\ud800"))
    assert name.replace("\u200b", "\ufffd") in lanes
    assert [line for line in text_picture(start(story), 90) if line.startswith('a<b>&"c"\ufffd')]


def test_a_long_wait_leaves_room_for_the_start() -> None:
    story = [WHOLE[0], *((at + 36_000, what) for at, what in WHOLE[1:])]
    picture = svg(start(story), "herd")
    assert drawn(picture)["b"]["weights"][1] > 200
    assert "s are not drawn" in picture
    assert "queue 36002.0 s" in picture
    assert "not drawn" not in svg(start(WHOLE), "herd")


@pytest.mark.parametrize("length", range(2, len(WHOLE) + 1))
def test_a_start_can_be_drawn_while_it_happens(length: int) -> None:
    story = start(WHOLE[:length])
    assert drawn(svg(story, "herd"))["queue, SLURM"]["queue"][1] > 0
    assert max(map(len, text_picture(story, 72))) <= 72
    assert ("not ready" in text_picture(story, 200)[-1]) == (length < len(WHOLE) - 1)


def test_what_does_not_come_up_is_seen() -> None:
    assert drawn(svg(start([*WHOLE[:14], (29, "failed b")]), "herd"))["b"]["failed"][1] > 5
    assert "waiting" in drawn(svg(start(without("node joined n2")), "herd"))["n2"]
    lost = drawn(svg(start([*WHOLE, (20, "node lost n2")]), "herd"))
    assert lost["n2"]["joined"][1] < lost["n1"]["joined"][1] / 3


def test_bars_in_a_terminal_are_in_proportion() -> None:
    lines = text_picture(start(WHOLE), 100)
    bars = {line.split("  ")[0].split(" ")[0]: line for line in lines[:5]}
    assert bars["b"].count("█") == pytest.approx(18 / 44 * 87, abs=1.5)
    assert bars["a"].count("▀") == pytest.approx(4 / 44 * 87, abs=1.5)
    assert bars["n1"].index("▒") == pytest.approx(13 + 2.5 / 44 * 87, abs=1.5)
    assert bars["queue,"].count("▁") == 1  # half a second is seen, too
    assert any("█ weights" in line for line in lines)
    assert all(len(line) <= 40 for line in text_picture(start(WHOLE), 1))
