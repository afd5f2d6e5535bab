"""`corral slurm` and `corral fetch` as typed: exit codes, one line for each error, and JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.fetch_report import FetchProgress, Report
from app.hub import NoAccess
from app.log_files import read
from app.submission.submit import Submitted
from tests.unit.conftest import Corral
from tests.unit.submission import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site.at(tmp_path)
    monkeypatch.setenv("CORRAL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("slurm.client.LocalRunner", lambda: made.slurm)
    monkeypatch.setattr("app.submission.cli.PATIENCE_S", 0.01)
    monkeypatch.setattr("app.submission.follow.POLL_S", 0.01)
    monkeypatch.setattr("app.submission.follow.LAST_WORDS_S", 0.0)
    monkeypatch.setattr("app.submission.actions.POLL_S", 0.01)
    monkeypatch.chdir(tmp_path)
    model = "small: {source: pocket:pocket-1b, hardware: {kind: cpu}, env: {HF_TOKEN: hf_secret}}"
    cluster = "{walltime: '1:00:00', shared: ./shared}"
    (tmp_path / "p.yaml").write_text(f"models: {{{model}}}\ncluster: {cluster}\n")
    return made


def test_a_life_in_json(site: Site, corral: Corral) -> None:
    def told(line: str, code: int = 0) -> Any:
        found = corral(f"{line} --json")
        assert found[0] == code, found
        return json.loads(found[1])

    assert told("slurm render -p p.yaml -n herd")["script"].startswith("#!/bin/bash\n")
    first = told("slurm up -p p.yaml -n herd --no-wait")
    assert set(first) == {"name", "job_id", "folder", "key_file"}
    at = site.folder.latest()
    assert at is not None
    submitted = Submitted("herd", first["job_id"], at)
    waiting = told("slurm status -n herd")
    assert (waiting["phase"], waiting["job"]["reason"], waiting["job"]["waiting_before"]) == ("waiting", "Priority", 0)
    site.slurm.start(7)
    site.clock.now = time.time()
    site.serves(submitted)
    assert told("slurm status -n herd")["url"] == "http://10.0.0.1:8000"
    assert [each["state"] for each in told("slurm list")] == ["RUNNING"]
    assert told("slurm connect -n herd --port 9000")["environment"]["OPENAI_BASE_URL"] == "http://127.0.0.1:9000/v1"
    assert told("slurm extend 2:00:00 -n herd") == {"name": "herd", "job_id": 7, "walltime": "0-02:00:00"}
    assert told("slurm join -n herd")["job_id"] == 8
    assert told("slurm drain -n herd") == {"name": "herd", "job_id": 7, "draining": True}
    assert told("slurm down -n herd") == {"name": "herd", "ended": [7], "cancelled": [8]}
    assert [each["job_id"] for each in told("slurm list")] == [None]
    assert told("slurm status -n herd", code=4)["phase"] == "ended"


def test_up_waits_and_says_how_to_use_it(site: Site, corral: Corral) -> None:
    def nodes_come() -> None:
        at = site.folder.latest()
        if at and 7 in site.slurm.jobs:
            site.slurm.start(7, "n1")
            site.clock.now = time.time()
            site.serves(Submitted("herd", 7, at))

    site.slurm.on_squeue = nodes_come
    code, out, err = corral("slurm up -p p.yaml -n herd")
    assert code == 0, err
    assert "Address  http://10.0.0.1:8000/v1" in out
    assert '"model": "small"' in out
    assert "slurm down --name herd" in out
    assert "job: job 7 serving" in err
    key = site.folder.path.with_name("first-key")
    assert f"Key      export CORRAL_API_KEY=$(cat {key})\n" in out
    assert f'/v1/chat/completions -H "Authorization: Bearer $(cat {key})" -H' in out
    assert key.read_text().strip() not in out + err


@pytest.fixture
def with_tls(site: Site) -> Site:
    """Its job 7 serves at once, at an address with a certificate that was made."""
    tls = {"scheme": "https", "certificate": "/shared/certificate.pem", "fingerprint": "AB:CD"}

    def nodes_come() -> None:
        at = site.folder.latest()
        if at and 7 in site.slurm.jobs:
            site.slurm.start(7, "n1")
            site.clock.now = time.time()
            site.serves(Submitted("herd", 7, at), **tls)

    site.slurm.on_squeue = nodes_come
    return site


@pytest.mark.usefixtures("with_tls")
def test_up_status_and_connect_tell_the_certificates_fingerprint(corral: Corral) -> None:
    up = corral("slurm up -p p.yaml -n herd")[1].splitlines()
    told = up.index("TLS      AB:CD (SHA-256)")
    assert up[told + 1] == "Trust    export SSL_CERT_FILE=/shared/certificate.pem"
    assert up.count(up[told]) == 1
    status = corral("slurm status -n herd")[1].splitlines()
    assert status[0].startswith("herd  https://10.0.0.1:8000  job 7 serving")
    assert status[-1] == up[told]
    assert "TLS fingerprint      AB:CD (SHA-256)\n" in corral("slurm connect -n herd")[1]


@pytest.mark.usefixtures("with_tls")
def test_the_certificates_fingerprint_is_in_their_json(corral: Corral) -> None:
    for line in ("slurm up -p p.yaml", "slurm status"):
        assert json.loads(corral(f"{line} -n herd --json")[1])["address"]["fingerprint"] == "AB:CD"
    assert json.loads(corral("slurm connect -n herd --json")[1])["fingerprint"] == "AB:CD"


def test_up_says_where_the_key_lies_and_never_prints_it(site: Site, corral: Corral) -> None:
    key = site.folder.path.with_name("first-key")
    code, out, err = corral("slurm up -p p.yaml -n herd --no-wait")
    assert code == 0, err
    assert out.splitlines()[1] == f"Requests need a key: export CORRAL_API_KEY=$(cat {key})"
    text = key.read_text().strip()
    told = corral("slurm up -p p.yaml -n other --no-wait --json")[1]
    assert json.loads(told)["key_file"] == str(key)
    assert key.read_text().strip() == text  # the second service takes the same
    assert text not in out + err + told


def test_where_no_keys_are_asked_for_none_is_made(site: Site, corral: Corral, tmp_path: Path) -> None:
    with (tmp_path / "p.yaml").open("a") as profile:
        profile.write("access: {keys: 'off'}\n")
    out = corral("slurm up -p p.yaml -n herd --no-wait")[1]
    assert (len(out.splitlines()), "key" in out) == (1, False)
    assert json.loads(corral("slurm up -p p.yaml -n other --no-wait --json")[1])["key_file"] is None
    assert {path.name for path in site.folder.path.parent.iterdir()} == {"cache", "herd", "home", "other"}


def test_a_keys_file_that_others_may_write_is_no_reason_to_submit(site: Site, corral: Corral) -> None:
    keys = site.folder.path.with_name("keys.json")
    keys.parent.mkdir()
    keys.write_text("{}")
    keys.chmod(0o666)
    code, _, err = corral("slurm up -p p.yaml -n herd --no-wait")
    assert (code, err.count("\n")) == (13, 1)
    assert f"chmod 600 {keys}" in err
    assert site.slurm.asked_for("sbatch") == []


def test_connect_hands_the_key_to_shells(site: Site, corral: Corral) -> None:
    corral("slurm up -p p.yaml -n herd --no-wait")
    at, key = site.folder.latest(), site.folder.path.with_name("first-key")
    assert at is not None
    site.slurm.start(7)
    site.clock.now = time.time()
    site.serves(Submitted("herd", 7, at))
    code, out, err = corral("slurm connect -n herd --login me@login --port 9000")
    assert code == 0, err
    assert out.splitlines() == [
        f'From the login node  curl -s http://10.0.0.1:8000/v1/models -H "Authorization: Bearer $(cat {key})"',
        f"Corral's commands    export CORRAL_API_KEY=$(cat {key})",
        "From a laptop        ssh -N -L 9000:10.0.0.1:8000 me@login",
        "and then there       export OPENAI_BASE_URL=http://127.0.0.1:9000/v1 "
        f"OPENAI_API_KEY=$(ssh me@login 'cat {key}')",
    ]
    told = json.loads(corral("slurm connect -n herd --json")[1])
    assert (told["key_file"], set(told["environment"])) == (str(key), {"OPENAI_BASE_URL"})
    key.unlink()
    out = corral("slurm connect -n herd")[1]
    assert "export CORRAL_API_KEY=KEY  (`corral keys create NAME` makes one)" in out
    assert 'curl -s http://10.0.0.1:8000/v1/models -H "Authorization: Bearer $CORRAL_API_KEY"' in out


def test_ctrl_c_leaves_the_job(site: Site, corral: Corral) -> None:
    def interrupt() -> None:
        if site.slurm.jobs and site.folder.latest():
            raise KeyboardInterrupt

    site.slurm.on_squeue = interrupt
    code, _, err = corral("slurm up -p p.yaml -n herd")
    assert code == 130
    assert "job 7 goes on; `corral slurm status` shows it, `corral slurm down` ends it" in err
    assert site.slurm.jobs[7]["State"] == "PENDING"


def test_a_job_that_fails_says_so_on_one_line(site: Site, corral: Corral) -> None:
    def fail() -> None:
        for job in site.slurm.jobs:
            site.slurm.end(job, "FAILED", exit_code="256")

    site.slurm.on_squeue = fail
    code, _, err = corral("slurm up -p p.yaml -n herd")
    assert code == 5
    assert err.splitlines()[-1].startswith("corral: job 7 ended (FAILED, exit code 1): ")


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        (
            "slurm status -n nothing",
            4,
            "corral: no service 'nothing' on this cluster (you have none); `corral slurm up`",
        ),
        ("slurm up -p pocket", 3, "corral: cluster: the profile says nothing of SLURM"),
        ("slurm render -p pocket", 3, "corral: cluster: the profile says nothing of SLURM"),
        ("slurm bogus", 2, "corral: No such command 'bogus'"),
        (
            "fetch -p pocket",
            3,
            "corral: cluster.shared: the profile names no shared folder; say where with --to FOLDER",
        ),
        ("fetch other -p p.yaml", 3, "corral: the profile has no model 'other'; it has small"),
    ],
)
def test_errors_are_one_line_with_a_code(site: Site, corral: Corral, line: str, code: int, told: str) -> None:
    found, _, err = corral(line)
    assert (found, err.count("\n")) == (code, 1), err
    assert err.startswith(told)


def test_slurms_own_troubles_have_codes(site: Site, corral: Corral) -> None:
    site.slurm.refusal = "Invalid qos specification"
    assert corral("slurm up -p p.yaml")[0] == 8
    site.slurm.missing = True
    code, _, err = corral("slurm up -p p.yaml")
    assert code == 9
    assert "is not on PATH: run this on a login node" in err
    site.slurm.missing, site.slurm.silent = False, True
    code, out, err = corral("slurm render -p p.yaml")
    assert (code, out[:11]) == (0, "#!/bin/bash")
    assert err.startswith("corral: note: not checked against the cluster: ")


def test_a_preview_of_what_cannot_run_fails(site: Site, corral: Corral) -> None:
    site.slurm.partitions = (("debug*", "up", "30:00", "3", "4", "6000", "(null)", "idle", "(null)"),)
    code, out, err = corral("slurm render -p p.yaml")
    assert (code, out[:11]) == (3, "#!/bin/bash")
    assert err.startswith("corral: cluster.walltime: 0-01:00:00 is past the limit of partition debug; at most")
    assert "hf_secret" not in out


def test_logs_of_the_job_and_of_one_model(site: Site, corral: Corral) -> None:
    corral("slurm up -p p.yaml -n herd --no-wait")
    at = site.folder.latest()
    assert at is not None
    for path, text in {"job.log": "a\nb\n", "node-n1.log": "c\n", "n1/serve/replica_model-small_x.log": "d\n"}.items():
        (at.logs / path).parent.mkdir(parents=True, exist_ok=True)
        (at.logs / path).write_text(text)
    assert corral("slurm logs -n herd -l 1")[1] == (
        "job.log: b\nnode-n1.log: c\nn1/serve/replica_model-small_x.log: d\n"
    )
    assert json.loads(corral("slurm logs small -n herd --json")[1]) == {
        "file": "n1/serve/replica_model-small_x.log",
        "line": "d",
    }
    assert corral("slurm logs large -n herd")[2] == "corral: 'herd' has no model 'large'; it has small\n"


def test_logs_about_one_request_are_those_of_all_nodes(site: Site, corral: Corral) -> None:
    corral("slurm up -p p.yaml -n herd --no-wait")
    at = site.folder.latest()
    assert at is not None
    engine = "serve/requests_model-small"
    told = {"n1/edge.log": "edge", f"n1/{engine}_a.log": "first", f"n2/{engine}:2_b.log": "second"}
    for path, text in told.items():
        (at.logs / path).parent.mkdir(parents=True, exist_ok=True)
        (at.logs / path).write_text(f"{text} mine\n{text} yours\n{text} mine too\n{text} yours\n")
    assert corral("slurm logs -n herd --request mine -l 1")[1] == (
        f"n1/edge.log: edge mine too\nn1/{engine}_a.log: first mine too\nn2/{engine}:2_b.log: second mine too\n"
    )
    found = corral("slurm logs small -n herd --request yours -l 1 --json")[1].splitlines()
    assert [json.loads(line) for line in found] == [
        {"file": f"n1/{engine}_a.log", "line": "first yours"},
        {"file": f"n2/{engine}:2_b.log", "line": "second yours"},
    ]
    assert corral("slurm logs -n herd --request nobodys") == (0, "", "")


def test_logs_that_come_later_are_read_from_their_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.log_files.POLL_S", 0.01)
    first, second = tmp_path / "1.log", tmp_path / "2.log"
    first.write_text("a\nb\n")
    lines = read([first], 1, True, lambda: sorted(tmp_path.glob("*.log")))
    assert next(lines) == (first, "b")
    second.write_text("c\n")
    assert next(lines) == (second, "c")


def test_the_timeline_is_a_table_and_a_picture(site: Site, corral: Corral, tmp_path: Path) -> None:
    corral("slurm up -p p.yaml -n herd --no-wait")
    at = site.folder.latest()
    assert at is not None
    assert corral("slurm timeline -n herd")[0] == 4
    begun = float(at.timeline.read_text().split()[0])
    events = [
        (1, "job started", "n1"),
        (2, "step started", "n1"),
        (4, "agent started", "n1"),
        (9, "head started", "n1"),
    ]
    events += [(10, "deployed", "-"), (11, "process", "small"), (15, "ready", "small"), (16, "service ready", "-")]
    with at.timeline.open("a") as file:
        file.writelines(f"{begun + after:.3f} {what} {who}\n" for after, what, who in events)
    code, out, _ = corral(f"slurm timeline -n herd --svg {tmp_path}/t.svg")
    assert code == 0
    assert "service ready" in out
    assert (tmp_path / "t.svg").read_text().startswith("<svg")
    (start,) = json.loads(corral("slurm timeline -n herd --json")[1])["starts"]
    assert start["costs"]["total"] == 16


def test_weights_are_fetched_into_the_shared_folder(
    site: Site, corral: Corral, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fetch(specs: Any, folder: Path, *, verify: bool, on_progress: Callable[[FetchProgress], None]) -> list[Report]:
        asked.append(([spec.id for spec in specs], folder, verify))
        on_progress(FetchProgress("a/b", "download", 1, 2))
        return [Report(("small",), "a/b", "fetched", folder / "x", "c0ffee", 2, 10, 10, 1.0)]

    monkeypatch.setattr("app.fetch.fetch", fetch)
    code, out, _ = corral("fetch small -p p.yaml --verify --json")
    assert code == 0
    assert json.loads(out)[0]["state"] == "fetched"
    assert asked == [(["small"], site.folder.path.parent, True)]
    assert "small: a/b: fetched" in corral("fetch -p p.yaml --to /elsewhere")[1]
    assert asked[1] == (["small"], Path("/elsewhere"), False)


def test_weights_that_may_not_be_fetched_have_a_code(
    site: Site, corral: Corral, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: Any, **__: Any) -> list[Report]:
        raise NoAccess("a/b is gated")

    monkeypatch.setattr("app.fetch.fetch", fetch)
    assert corral("fetch -p p.yaml")[::2] == (10, "corral: a/b is gated\n")
