"""Allocation and its hostlists: what a job sees of itself."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.allocation import Allocation
from slurm.errors import NotInJob
from slurm.hostlist import expand_hostlist

JOB = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "n[1-3]"}


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()),
        ("login", ("login",)),
        ("n[1-3,07-09],login", ("n1", "n2", "n3", "n07", "n08", "n09", "login")),
        ("r[1-2]n[08-10]", ("r1n08", "r1n09", "r1n10", "r2n08", "r2n09", "r2n10")),
        ("gpu[5]-ib", ("gpu5-ib",)),
        ("a-1,a-2", ("a-1", "a-2")),
        ("n[98-101]", ("n98", "n99", "n100", "n101")),
    ],
)
def test_hostlists_expand_as_scontrol_does(text: str, hosts: tuple[str, ...]) -> None:
    assert expand_hostlist(text) == hosts


@pytest.mark.parametrize(
    "text", ["n[1", "n]1[", "n[[1]]", "a,,b", "n[3-1]", "n[a]", "n[]", "a b", "n[1-999999999]", ","]
)
def test_what_is_no_hostlist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"hostlist|runs backwards|names more than"):
        expand_hostlist(text)


words = st.from_regex(r"[a-z]([a-z0-9-]{0,4}[a-z-])?", fullmatch=True)
ranges = st.tuples(st.integers(0, 300), st.integers(0, 12), st.integers(1, 5))


@st.composite
def hostlists(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A hostlist and, made beside it in another way, the hosts it names."""
    text, hosts = [], []
    for _ in range(draw(st.integers(1, 4))):
        parts = draw(st.lists(st.tuples(words, st.lists(ranges, max_size=3)), min_size=1, max_size=2))
        written, named = "", [[""]]
        for word, spans in parts:
            written += word
            named.append([word])
            if spans:
                written += f"[{','.join(f'{a:0{w}}-{a + n:0{w}}' if n else f'{a:0{w}}' for a, n, w in spans)}]"
                named.append([f"{number:0{w}}" for a, n, w in spans for number in range(a, a + n + 1)])
        text.append(written)
        hosts += ["".join(host) for host in product(*named)]
    return ",".join(text), hosts


@given(hostlists())
def test_any_hostlist_names_its_hosts(case: tuple[str, list[str]]) -> None:
    text, hosts = case
    assert list(expand_hostlist(text)) == hosts


@given(st.text(alphabet="n[]-,019 é\n"))
def test_any_text_expands_or_is_refused(text: str) -> None:
    try:
        hosts = expand_hostlist(text)
    except ValueError:
        return
    assert all(host and not set(host) & set("[], \n") for host in hosts)


def test_an_ordinary_job() -> None:
    seen = Allocation.from_environment(
        {
            **JOB,
            "SLURM_JOB_END_TIME": "1000",
            "SLURM_RESTART_COUNT": "2",
            "SLURMD_NODENAME": "n2",
            "CUDA_VISIBLE_DEVICES": "0,3",
            "SLURM_CPUS_ON_NODE": "16",
        }
    )
    assert seen == Allocation(42, (("n1", "n2", "n3"),), 1000.0, 2, "n2", ("0", "3"), 16)
    assert (seen.head, seen.nodes) == ("n1", ("n1", "n2", "n3"))


def test_a_heterogeneous_job_is_one_job_with_groups() -> None:
    environ = {
        "SLURM_JOB_ID": "43",
        "SLURM_JOB_ID_HET_GROUP_0": "42",
        "SLURM_HET_SIZE": "2",
        "SLURM_JOB_NODELIST": "big1",
        "SLURM_JOB_NODELIST_HET_GROUP_0": "big1",
        "SLURM_JOB_NODELIST_HET_GROUP_1": "n[1-2],big1",
    }
    seen = Allocation.from_environment(environ)
    assert (seen.job_id, seen.groups) == (42, (("big1",), ("n1", "n2", "big1")))
    assert seen.nodes == ("big1", "n1", "n2")


def test_time_left_is_never_negative() -> None:
    allocation = Allocation(1, (("n",),), deadline=100.0)
    assert [allocation.remaining_s(now) for now in (40.0, 100.0, 200.0)] == [60.0, 0.0, 0.0]
    assert Allocation(1, (("n",),)).remaining_s(0.0) is None


def test_hosts_may_be_expanded_by_somebody_else() -> None:
    assert Allocation.from_environment(JOB, lambda text: (text,)).head == "n[1-3]"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"SLURM_JOB_ID": ""}, "SLURM_JOB_ID is not set"),
        ({"SLURM_JOB_NODELIST": ""}, "SLURM_JOB_NODELIST is not set: this does not run in a SLURM job"),
        ({"SLURM_JOB_NODELIST": "n["}, "SLURM_JOB_NODELIST: 'n\\[' is not a hostlist"),
        ({"SLURM_RESTART_COUNT": "many"}, "SLURM_RESTART_COUNT is 'many', which is not a number"),
        ({"SLURM_HET_SIZE": "2"}, "SLURM_JOB_NODELIST_HET_GROUP_0 is not set"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, str], told: str) -> None:
    with pytest.raises(NotInJob, match=told):
        Allocation.from_environment({**JOB, **changes})
