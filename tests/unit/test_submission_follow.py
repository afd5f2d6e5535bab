"""Following a job: what is told on the way, when it ends, and what does not end it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.allocation.records import NodeRecord
from app.launch import LaunchError, NotRunningError
from app.submission.actions import down, drain, extend
from app.submission.connect import ways
from app.submission.follow import follow, look
from app.submission.listing import services
from app.submission.look import Look
from app.submission.show import SILENT, Board, job_line, status_table
from app.submission.submit import Submitted
from slurm.errors import Refused, Unavailable
from tests.unit.slurm_fake import client
from tests.unit.submission import READY, Site

NODES = {"n1": {"group": "main", "state": "joined", "detail": ""}}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("CORRAL_STATE_DIR", str(tmp_path / "state"))
    return Site.at(tmp_path)


async def followed(site: Site, submitted: Submitted, *steps: Callable[[], None], timeout_s: float = 3600) -> list[Look]:
    """What is seen on the way; one of `steps` is taken after each 20 s."""
    seen: list[Look] = []
    left, due = list(steps), site.clock() + 20
    async for each in follow(
        submitted.job, submitted.job_id, client(site.slurm), timeout_s, site.clock.sleep, site.clock, site.clock
    ):
        seen.append(each)
        if left and site.clock() > due:
            left.pop(0)()
            due = site.clock() + 20
    return seen


def phases(seen: list[Look]) -> list[str]:
    return list(dict.fromkeys(each.phase for each in seen))


async def test_from_the_queue_to_the_address(site: Site) -> None:
    submitted = await site.submit()
    site.slurm.add("other", "", PriorityLong="60")
    seen = await followed(
        site, submitted,
        lambda: site.slurm.start(7, "n1"),
        lambda: site.says(submitted, "waiting for nodes", nodes=NODES),
        lambda: site.says(submitted, "deploying", nodes=NODES, models={"small": {"state": "starting"}}),
        lambda: site.serves(submitted),
    )  # fmt: skip
    assert phases(seen) == ["waiting", "running", "waiting for nodes", "deploying", "serving"]
    assert job_line(seen[0]).startswith("job 7 waiting (Priority; 1 before it in debug; start estimated at ")
    assert seen[-1].ready
    told = json.loads(json.dumps(seen[-1].to_json()))
    assert told["url"] == "http://10.0.0.1:8000"
    assert told["job"]["nodes"] == ["n1"]
    assert (told["models"], told["nodes"]) == (READY, NODES)


async def test_nodes_are_told_before_the_head_speaks(site: Site) -> None:
    submitted = await site.submit()
    site.slurm.start(7)
    record = NodeRecord("n1", "main", 7, 0, "copying weights", "10.0.0.1", "3 of 8 GiB")
    record.write(submitted.job.node_file("n1", "main"))
    seen = await look(site.folder, client(site.slurm))
    assert seen.nodes == {
        "n1": {"group": "main", "state": "waiting", "detail": "3 of 8 GiB"},
        "n2": {"group": "", "state": "waiting", "detail": ""},
    }


async def test_a_controller_that_restarts_ends_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    submitted = await site.submit()
    site.slurm.start(7, "n1")

    def silence() -> None:
        site.slurm.silent = True
        site.says(submitted, "deploying", nodes=NODES)

    seen = await followed(site, submitted, silence, *[lambda: None] * 30, lambda: site.serves(submitted))
    assert seen[-1].ready
    assert not seen[-1].queued.answers
    board = Board()
    for each in seen:
        board.update(each)
    assert capsys.readouterr().err.count(SILENT) == 1


async def test_silence_of_both_ends_at_last(site: Site) -> None:
    submitted = await site.submit()
    site.slurm.silent = True
    with pytest.raises(Unavailable, match="does not answer for 900 s, and job 7 says nothing"):
        await followed(site, submitted)


async def test_a_job_that_slurm_forgot_is_followed_while_it_speaks(site: Site) -> None:
    submitted = await site.submit()
    site.slurm.start(7, "n1")

    def forget() -> None:
        site.says(submitted, "deploying", nodes=NODES)
        site.slurm.jobs.clear()

    seen = await followed(site, submitted, forget, lambda: site.serves(submitted))
    assert seen[-1].ready


async def test_a_job_that_slurm_forgot_and_that_is_silent_has_ended(site: Site) -> None:
    submitted = await site.submit()
    site.says(submitted, "deploying", nodes=NODES)
    submitted.job.job_log.write_text("slurmstepd: error: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***\n")
    site.slurm.jobs.clear()
    with pytest.raises(LaunchError, match=r"job 7 is gone from SLURM: .*DUE TO TIME LIMIT"):
        await followed(site, submitted)


async def test_a_requeued_job_begins_anew(site: Site) -> None:
    submitted = await site.submit()
    site.slurm.start(7, "n1")
    site.says(submitted, "deploying", nodes=NODES)
    site.slurm.end(7, "PENDING", Reason="BeginTime", RestartCnt="1", NodeList="")
    seen = await look(site.folder, client(site.slurm))
    assert (seen.phase, seen.status, seen.nodes) == ("waiting", None, {})
    assert "restart 1" in job_line(seen)
    site.slurm.start(7, "n1", RestartCnt="1")
    assert (await look(site.folder, client(site.slurm))).phase == "running"


# --- ends ---


async def ended(site: Site, *steps: Callable[[], None]) -> str:
    submitted = await site.submit()
    site.slurm.start(7, "n1")
    for step in steps:
        step()
    with pytest.raises(LaunchError) as caught:
        await followed(site, submitted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_folder_that_the_nodes_do_not_see(site: Site) -> None:
    told = await ended(site, lambda: site.slurm.end(7, "FAILED", exit_code="256"))
    job = site.folder.latest()
    assert job is not None
    assert told.startswith("job 7 ended (FAILED, exit code 1): cluster.shared: node n1 does not see ")
    assert str(job.path) in told


async def test_the_last_words_of_the_head_say_why(site: Site) -> None:
    def write() -> None:
        job = site.folder.latest()
        assert job is not None
        job.job_log.write_text("corral: the head's step ended with status 1; see logs/node-n1.log\n")
        job.node_log("n1").write_text("a\ncorral: no port is free\nsrun: error: n1: task 0: Exited with exit code 1\n")
        site.slurm.end(7, "FAILED", exit_code="256")

    assert "(FAILED, exit code 1): corral: no port is free (see " in await ended(site, write)


async def test_the_word_of_the_head_counts_most(site: Site) -> None:
    def fail() -> None:
        job = site.folder.latest()
        assert job is not None
        site.says(Submitted("herd", 7, job), "failed", error="node n2 did not come; see node-n2.log")

    assert await ended(site, fail) == "job 7 failed: node n2 did not come; see node-n2.log"


async def test_a_job_that_was_cancelled_while_it_waited(site: Site) -> None:
    submitted = await site.submit()
    with pytest.raises(LaunchError, match=r"job 7 ended \(CANCELLED, signal 15\): it never ran"):
        await followed(site, submitted, lambda: site.slurm.end(7, "CANCELLED", exit_code="15"))


async def test_patience_ends_but_not_the_job(site: Site) -> None:
    submitted = await site.submit()
    with pytest.raises(LaunchError, match="not ready after 60 s; job 7 goes on: `corral slurm status`"):
        await followed(site, submitted, timeout_s=60)
    assert site.slurm.asked_for("scancel") == []


async def test_a_service_that_never_was(site: Site) -> None:
    site.folder.path.mkdir(parents=True)
    with pytest.raises(NotRunningError, match="'herd' has no job; `corral slurm up` submits one"):
        await look(site.folder, client(site.slurm))


# --- what is done to a job ---


async def test_down_asks_first_and_cancels_what_waits(site: Site) -> None:
    submitted = await site.submit()
    site.slurm.start(7)
    site.serves(submitted)
    site.slurm.add("corral-herd", f"corral:{site.folder.path}")
    site.slurm.add("corral-herd2", f"corral:{site.folder.path}2")
    done = await down(site.folder, client(site.slurm), 60, site.clock.sleep, site.clock)
    assert (done.ended, done.cancelled) == ((7,), (8,))
    assert site.slurm.asked_for("scancel") == [("scancel", "8"), ("scancel", "--batch", "--signal=TERM", "7")]
    assert not site.folder.address.exists()
    assert site.slurm.jobs[9]["State"] == "PENDING"
    with pytest.raises(NotRunningError, match="no job of 'herd' waits or runs"):
        await down(site.folder, client(site.slurm))


async def test_down_cancels_what_does_not_end(site: Site) -> None:
    await site.submit()
    site.slurm.start(7)
    site.slurm.deaf = True
    began = site.clock()
    done = await down(site.folder, client(site.slurm), 30, site.clock.sleep, site.clock)
    assert (done.ended, done.cancelled) == ((), (7,))
    assert 30 < site.clock() - began < 40


async def test_jobs_are_found_where_the_site_changes_comments(site: Site) -> None:
    await site.submit()
    site.slurm.jobs[7]["Comment"] = "the site's own"
    assert (await down(site.folder, client(site.slurm), 60, site.clock.sleep, site.clock)).cancelled == (7,)


async def test_the_address_of_another_job_stays(site: Site) -> None:
    submitted = await site.submit()
    site.serves(Submitted("herd", 99, submitted.job))
    await down(site.folder, client(site.slurm), 60, site.clock.sleep, site.clock)
    assert site.folder.address.exists()


async def test_more_time_is_counted_from_the_start_or_added(site: Site) -> None:
    await site.submit()
    site.slurm.start(7)
    await extend(site.folder, client(site.slurm), "3:00:00")
    await extend(site.folder, client(site.slurm), "+30")
    assert [argv[-1] for argv in site.slurm.asked_for("scontrol")] == ["TimeLimit=0-03:00:00", "TimeLimit=0-01:30:00"]
    site.slurm.refusal = "Access/permission denied"
    with pytest.raises(Refused, match=r"walltime: the site does not let job 7 .*denied.*cluster.successor: true"):
        await extend(site.folder, client(site.slurm), "+30")


async def test_a_drain_is_a_file(site: Site) -> None:
    submitted = await site.submit()
    with pytest.raises(NotRunningError, match=r"job 7 of 'herd' does not run \(it is waiting\)"):
        await drain(site.folder, client(site.slurm))
    site.slurm.start(7)
    await drain(site.folder, client(site.slurm))
    assert submitted.job.drain.exists()


async def test_all_services_are_listed(site: Site) -> None:
    submitted = await site.submit()
    site.slurm.start(7)
    site.serves(submitted)
    await site.submit(name="other")
    site.slurm.end(8)
    rows = [listed.row() for listed in await services(client(site.slurm))]
    assert rows == [
        ["herd", "7", "RUNNING", "n1,n2", "0-01:00:00", "http://10.0.0.1:8000"],
        ["other", "-", "no job", "", "", ""],
    ]


async def test_the_ways_in(site: Site) -> None:
    submitted = await site.submit()
    site.serves(submitted)
    seen = await look(site.folder, client(site.slurm))
    assert seen.address is not None
    found = ways(seen.address, "me@login", 9000)
    assert found.forward == ["ssh", "-N", "-L", "9000:10.0.0.1:8000", "me@login"]
    assert "curl -s http://10.0.0.1:8000/v1/models" in found.lines()
    assert "OPENAI_BASE_URL=http://127.0.0.1:9000/v1" in found.lines()


async def test_the_status_is_a_table(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    submitted = await site.submit()
    site.slurm.start(7)
    site.serves(submitted)
    status_table(await look(site.folder, client(site.slurm)))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "herd  http://10.0.0.1:8000  job 7 serving  0-01:00:00 left"
    assert [line.split() for line in printed[1:]] == [
        ["node", "group", "state", "detail"], ["n1", "main", "joined"],
        ["model", "state", "replicas", "detail"], ["small", "ready", "1/1"],
    ]  # fmt: skip
