"""JobSpec to job script: golden files, and quoting proven with bash and with sbatch's way of reading."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm.config import ClusterConfig, Container
from slurm.script import JobSpec, directive_quote, render

GOLDEN = Path(__file__).parent / "slurm_golden"
"""`CORRAL_GOLDEN=1 pytest tests/unit/test_slurm_script.py` writes them anew; read the difference before you commit."""


def config(**changes: Any) -> ClusterConfig:
    return ClusterConfig(**{"walltime": "4:00:00", "shared": "/shared/me", **changes})


def spec(cluster: ClusterConfig | None = None, **changes: Any) -> JobSpec:
    job = JobSpec(
        cluster or config(), "corral-pocket", Path("/shared/me/jobs/my job"), "/opt/corral/bin/python", comment="corral"
    )
    return replace(job, **changes)


GPUS = {"name": "main", "nodes": 2, "gpus": 4, "gpu_type": "h200", "cpus": 32, "memory": "256 GiB"}
BIG = {**GPUS, "name": "big", "nodes": 1, "partition": "h200", "labels": {"herd": "70b"}}
SMALL = {"name": "small", "nodes": 2, "gpus": 1, "cpus": 8, "memory": "64 GiB", "constraint": "a100|a40"}
RAY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/shared/me/jobs/my job/token", "HF_HUB_OFFLINE": "1"}
MOUNTED: dict[str, Any] = {
    "env": RAY,
    "writable": (Path("/scratch/cache"),),
    "read_only": (Path("/shared/me/weights"),),
}
FULL: dict[str, Any] = {
    "account": "llamas", "partition": "gpu", "qos": "high", "reservation": "tuesday", "constraint": "ib",
    "modules": ("gcc/12", "cuda/12.4"), "setup": ("export OMP_NUM_THREADS=1", "ulimit -n 65536"), "requeue": False,
    "local": "/scratch",
    "extra": ("--mail-type=END,FAIL", "--exclusive", "--mail-user=it's me"), "drain_s": 300,
}  # fmt: skip

CASES = {
    "none": spec(config(groups=[{"nodes": 3, "cpus": 4, "memory": "6000 MiB"}], **FULL), env=RAY),
    "apptainer": spec(
        config(
            groups=[GPUS], container={"kind": "apptainer", "image": "/images/corral.sif", "binds": ["/data:/data:ro"]}
        ),
        **MOUNTED,
    ),
    "pyxis": spec(
        config(groups=[GPUS], container={"kind": "pyxis", "image": "/images/corral.sqsh"}),
        **{**MOUNTED, "env": {"RAY_AUTH_MODE": "token"}},
        folder=Path("/shared/me/jobs/1"),
    ),
    "charliecloud": spec(
        config(container={"kind": "charliecloud", "image": "/images/corral"}, local="/scratch"), **MOUNTED
    ),
    "hetjob": spec(config(groups=[BIG, SMALL], partition="gpu", account="llamas"), env=RAY),
}


def golden(name: str) -> tuple[Path, str]:
    """The file of a case and what belongs into it: the script, or what the container changes in it."""
    job, script = CASES[name], render(CASES[name])
    if job.config.container.kind == "none":
        return GOLDEN / f"{name}.sh", script
    bare = render(replace(job, config=job.config.model_copy(update={"container": Container()})))
    changes = difflib.unified_diff(bare.splitlines(True), script.splitlines(True), "without", "with", n=0)
    return GOLDEN / f"{name}.diff", "".join(changes)


@pytest.mark.parametrize("name", CASES)
def test_scripts_are_as_they_were_read_and_approved(name: str) -> None:
    path, text = golden(name)
    if os.environ.get("CORRAL_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", CASES)
def test_bash_and_shellcheck_can_read_them(name: str) -> None:
    script = render(CASES[name])
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
    if shutil.which("shellcheck"):
        found = subprocess.run(["shellcheck", "-x", "-"], input=script, text=True, capture_output=True)
        assert found.stdout == ""


def directives(script: str) -> list[list[str]]:
    """The options of each component, as sbatch reads them."""
    components: list[list[str]] = [[]]
    for line in script.splitlines():
        if line.startswith("#SBATCH hetjob"):
            components.append([])
        elif line.startswith("#SBATCH "):
            components[-1] += sbatch_words(line.removeprefix("#SBATCH "))
        elif not line.startswith("#"):
            return components
    return components


def sbatch_words(line: str) -> list[str]:
    """Words of a directive the way SLURM 22.05 was seen to split them: a backslash counts inside any quotes."""
    words, word, quote, rest = list[str](), None, "", iter(line)
    for char in rest:
        if char == "\\":
            word = (word or "") + next(rest, "")
        elif quote:
            quote, word = ("", word) if char == quote else (quote, (word or "") + char)
        elif char in "'\"":
            quote, word = char, word or ""
        elif char == "#":
            break
        elif char.isspace():
            words, word = (words, None) if word is None else ([*words, word], None)
        else:
            word = (word or "") + char
    return words if word is None else [*words, word]


def test_the_way_sbatch_was_seen_to_read() -> None:
    assert sbatch_words('--job-name="a\'b $(x) `y` # \\" z"') == ["--job-name=a'b $(x) `y` # \" z"]
    assert sbatch_words("--comment='a\"b \\ c' # trailing") == ['--comment=a"b  c']
    assert sbatch_words('--account=a"b c"d\'e "f\'') == ['--account=ab cde "f']
    assert sbatch_words("--constraint=x#y") == ["--constraint=x"]


special = st.sampled_from(" '\"\\$`#%!;&|()<>*?[]{}~=:,.-é家🦙")
lines = st.text(special | st.characters(exclude_categories=["C", "Z"]), max_size=12)
"""Text that can be printed on one line, mostly of what shells and sbatch give a meaning to."""


bounded = settings(max_examples=25, deadline=None)  # each example renders, or starts a bash


@given(lines)
def test_directives_arrive_as_they_were_given(text: str) -> None:
    assert sbatch_words(f"--name={directive_quote(text)} --next") == [f"--name={text}", "--next"]


@bounded
@given(lines.filter(bool), lines, lines)
def test_names_comments_and_extra_options_reach_sbatch(name: str, comment: str, value: str) -> None:
    script = render(spec(config(extra=(f"--mail-user={value}",)), name=name, comment=comment))
    (options,) = directives(script)
    assert {f"--job-name={name}", f"--mail-user={value}"} <= set(options)
    assert (f"--comment={comment}" in options) == bool(comment)
    assert len([option for option in options if not option.startswith("--")]) == 0


def test_a_percent_sign_in_the_folder_is_no_pattern() -> None:
    (options,) = directives(render(spec(folder=Path("/shared/me/100%j"))))
    assert "--output=/shared/me/100%%j/logs/job.log" in options


def test_each_group_is_a_component() -> None:
    big, small = directives(render(CASES["hetjob"]))
    assert {"--partition=h200", "--gres=gpu:h200:4", "--nodes=1", "--mem=262144M", "--no-kill"} <= set(big)
    assert {"--partition=gpu", "--gres=gpu:1", "--nodes=2", "--constraint=a100|a40", "--account=llamas"} <= set(small)
    assert "--signal=B:USR1@120" in big
    assert not [option for option in small if option.startswith(("--signal", "--output", "--job-name"))]


def test_memory_is_rounded_up_to_mebibytes() -> None:
    (options,) = directives(render(spec(config(groups=[{"memory": (1 << 20) + 1}]))))
    assert "--mem=2M" in options


# --- bash ---


JOB_ID = "7"


def prepared(job: JobSpec) -> tuple[dict[str, str], list[str]]:
    """What the script exports and what it would run on a node, told by bash itself."""
    script = render(job)
    folder = re.search(r"^set -u\n(.*?)\n\nif ! ", script, re.M | re.S)
    middle = re.search(r"^# The environment of every node\.$.*?(?=^# step ROLE)", script, re.M | re.S)
    assert folder is not None
    assert middle is not None
    tell = "env -0; printf '\\0'; printf '%s\\0' \"${command[@]}\""
    text = f"{folder[1]}\n{middle[0]}\n{tell}"
    clean = {"PATH": "/usr/bin:/bin", "SLURM_JOB_END_TIME": "1", "USER": "me", "LC_ALL": "C.UTF-8"}
    clean["SLURM_JOB_ID"] = JOB_ID
    told = subprocess.run(["bash", "-u"], input=text.encode(), env=clean, check=True, capture_output=True).stdout
    environment, _, command = told.decode().partition("\0\0")
    return dict(line.split("=", 1) for line in environment.split("\0")), command.split("\0")[:-1]


values = st.text(
    st.sampled_from(" '\"\\$`\n\t#!;&|()<>*?") | st.characters(exclude_categories=["Cs"]), max_size=12
).map(lambda text: text.replace("\0", ""))
folders = lines.map(lambda text: "x" + text.translate(dict.fromkeys(map(ord, "\\/,:"), "_")))


@bounded
@given(values, folders, lines.filter(bool), lines.filter(bool))
def test_whatever_the_text_bash_passes_it_on_unchanged(value: str, name: str, python: str, image: str) -> None:
    if image.startswith("-"):
        image = f"./{image}"
    job = spec(
        config(container={"kind": "apptainer", "image": image}, local=None),
        folder=Path("/shared/me") / name,
        python=python,
        env={"VALUE": value},
    )
    environment, command = prepared(job)
    assert (environment["VALUE"], environment["APPTAINERENV_VALUE"]) == (value, value)
    assert command[4:] == [
        JOB_ID, str(job.folder), "apptainer", "exec", "--no-home", f"--pwd={job.folder}",
        "--bind=/shared/me:/shared/me", image, python, "-P", "-m", "slurm.node", str(job.folder),
    ]  # fmt: skip


@bounded
@given(lines)
def test_lines_of_the_setup_are_bash_and_nothing_else_reads_them(text: str) -> None:
    _, command = prepared(spec(config(setup=(f"export VALUE={shlex.quote(text)}",))))
    node = [*command[:4], JOB_ID, "/", "printenv", "VALUE"]
    assert subprocess.run(node, check=True, capture_output=True).stdout.decode() == f"{text}\n"


@bounded
@given(st.text())
def test_what_cannot_arrive_is_refused_by_field(text: str) -> None:
    given: dict[str, Any] = {"name": text, "python": text, "comment": text, "folder": Path(f"/{text}")}
    for field, value in given.items():
        try:
            job = spec(**{field: value})
        except ValueError as error:
            assert field in str(error)  # noqa: PT017
        else:
            assert len(directives(render(job))) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "a\nb"}, "name: 'a\\\\nb' has a line break"),
        ({"name": ""}, "name and python must not be empty"),
        ({"folder": Path("jobs/1")}, "folder: 'jobs/1' is not absolute"),
        ({"module": "os; rm"}, "module: 'os; rm' is not a module's dotted name"),
        ({"env": {"A B": "1"}}, "env: 'A B' is not a variable's name"),
        ({"env": {"A": "\0"}}, "env: A has a NUL"),
        ({"env": {"HF_TOKEN": "hf_x"}}, "env: HF_TOKEN looks like a secret; put it into a file of mode 0600"),
        ({"env": {"API_KEY": "x"}}, "env: API_KEY looks like a secret"),
    ],
)
def test_a_job_that_cannot_be_written_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told).replace("\\\\\\\\", "\\\\")):
        spec(**changes)


def test_a_setup_that_would_end_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="setup: a line that is just 'END_OF_SETUP'"):
        spec(config(setup=("END_OF_SETUP",)))


def test_folders_that_the_runtime_cannot_bind_are_refused() -> None:
    pyxis = config(container={"kind": "pyxis", "image": "/i"})
    with pytest.raises(ValueError, match="pyxis cannot bind '/a b'"):
        spec(pyxis, folder=Path("/a b"))


def test_the_job_folder_is_bound_where_it_is_not_below_the_shared_one() -> None:
    inside = config(container={"kind": "apptainer", "image": "/i"}, local=None)
    assert [str(bind.host) for bind in spec(inside, folder=Path("/shared/me/x")).binds] == ["/shared/me"]
    assert [str(bind.host) for bind in spec(inside, folder=Path("/jobs/x")).binds] == ["/shared/me", "/jobs/x"]


def test_no_golden_file_is_left_over() -> None:
    assert set(GOLDEN.iterdir()) == {golden(name)[0] for name in CASES}
