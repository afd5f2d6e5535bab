"""ClusterConfig: what it takes, and how it refuses the rest."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from slurm.config import ClusterConfig, Container, NodeGroup
from slurm.walltime import format_walltime, parse_limit, parse_walltime

SMALLEST: dict[str, Any] = {"walltime": "1:00:00", "shared": "/shared"}


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        ClusterConfig(**{**SMALLEST, **changes})
    return "\n".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in caught.value.errors()
    )


def test_little_is_needed() -> None:
    config = ClusterConfig(**SMALLEST)
    assert config.groups == (NodeGroup(name="main", nodes=1),)
    assert (config.container.kind, config.local, config.requeue) == ("none", Path("/tmp"), True)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90", timedelta(minutes=90)),
        ("2:30", timedelta(minutes=2, seconds=30)),
        ("1:30:00", timedelta(hours=1, minutes=30)),
        ("36:00:00", timedelta(hours=36)),
        ("2-12", timedelta(days=2, hours=12)),
        ("2-12:30", timedelta(days=2, hours=12, minutes=30)),
        ("2-12:30:15", timedelta(days=2, hours=12, minutes=30, seconds=15)),
    ],
)
def test_every_form_of_slurm_is_a_walltime(text: str, duration: timedelta) -> None:
    assert ClusterConfig(**{**SMALLEST, "walltime": text}).walltime == duration


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36_000)))
def test_walltimes_survive_being_written(duration: timedelta) -> None:
    whole = timedelta(seconds=int(duration.total_seconds()))
    assert parse_walltime(format_walltime(duration)) == whole


def test_limits_may_be_missing() -> None:
    assert parse_limit("infinite") is None
    assert parse_limit("N/A") is None
    assert parse_limit("30:00") == timedelta(minutes=30)


def test_a_config_survives_json() -> None:
    config = ClusterConfig(
        **SMALLEST,
        partition="gpu",
        groups=({"name": "big", "gpus": 4, "gpu_type": "h200", "memory": "1 TiB", "labels": {"herd": "70b"}},),
        container={"kind": "apptainer", "image": "/images/a b.sif", "binds": ("/data:/data:ro",)},
        extra=("--mail-type=END",),
    )
    assert config.model_dump(mode="json")["walltime"] == "0-01:00:00"
    assert ClusterConfig.model_validate_json(config.model_dump_json()) == config


def test_components_inherit_where_they_say_nothing() -> None:
    config = ClusterConfig(
        **SMALLEST,
        partition="cpu",
        account="me",
        constraint="ib",
        groups=({"name": "big", "partition": "gpu"}, {"name": "small", "constraint": "ib&fast"}),
    )
    assert [(c.partition, c.account, c.constraint) for c in config.components] == [
        ("gpu", "me", "ib"),
        ("cpu", "me", "ib&fast"),
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"waltime": "1"}, "unknown key 'waltime' (did you mean 'walltime'?); valid keys: account, "),
        ({"groups": [{"node": 3}]}, "groups.0: unknown key 'node' (did you mean 'nodes'?)"),
        ({"walltime": 5400}, "walltime: put the walltime in quotes, for example '1:30:00' or '90'"),
        ({"walltime": "soon"}, "walltime: 'soon' is not a duration; SLURM reads minutes, MM:SS"),
        ({"walltime": "UNLIMITED"}, "walltime: 'UNLIMITED' has no end; say how long"),
        ({"walltime": "999999999-0"}, "walltime: '999999999-0' is longer than a hundred years"),
        ({"walltime": "0:30"}, "walltime: SLURM counts in minutes; ask for at least one"),
        ({"walltime": "0:60", "drain_s": 60}, "drain_s is 60 s, but the whole walltime is 0-00:01:00"),
        ({"drain_s": 65_536, "walltime": "2-0"}, "drain_s: Input should be less than or equal to 65535"),
        ({"account": "me\n#SBATCH --x"}, "account: 'me\\n#SBATCH --x' is not a name"),
        ({"partition": "--gpu"}, "partition: '--gpu' is not a name"),
        ({"constraint": "a b"}, "constraint: 'a b' is not a constraint: features joined by & or |, no spaces"),
        ({"groups": []}, "groups: Tuple should have at least 1 item"),
        ({"groups": [{"name": "a"}, {"name": "a"}]}, "groups: two groups have the name 'a'; give each its own"),
        ({"groups": [{"name": "a b"}]}, "groups.0.name: 'a b' is not a group's name"),
        ({"groups": [{"gpu_type": "h200"}]}, "gpu_type is set but gpus is 0; set gpus or drop gpu_type"),
        ({"groups": [{"labels": {"a b": "c"}}]}, "'a b' is not a label's key"),
        ({"shared": "work/me"}, "shared: 'work/me' is not absolute; write the whole path"),
        ({"shared": "/a\nb"}, "shared: '/a\\nb' has a line break"),
        ({"shared": "/a\\b"}, "shared: '/a\\\\b' has a backslash"),
        ({"setup": ["a\nb"]}, "setup.0: 'a\\nb' has a line break"),
        ({"modules": ["\0"]}, "modules.0: '\\x00' has a line break or another character"),
        ({"interface": "ib0; rm"}, "interface: 'ib0; rm' is neither an interface (ib0) nor a network (10.0.0.0/16)"),
        ({"extra": ["-J x"]}, "extra: '-J x' must be --name or --name=value"),
        ({"extra": ["--time=3"]}, "extra: --time is written by Corral itself; set walltime instead"),
        ({"extra": ["--output=x"]}, "extra: --output is written by Corral itself"),
        ({"container": {"kind": "docker"}}, "container.kind: Input should be 'none', 'apptainer', 'pyxis' or"),
        ({"container": {"kind": "pyxis"}}, "container: kind is pyxis, but there is no image; set image"),
        ({"container": {"image": "x.sif"}}, "container: kind is none, but an image, binds or args are set"),
        ({"container": {"kind": "pyxis", "image": "--x"}}, "container.image: '--x' looks like an option"),
        ({"container": {"kind": "apptainer", "image": "x", "binds": ["/a:/b:rw"]}}, "must be host[:inside[:ro]]"),
        ({"container": {"kind": "apptainer", "image": "x", "binds": ["a"]}}, "container.binds: 'a' is not absolute"),
        ({"container": {"kind": "apptainer", "image": "x", "binds": ["/a,b"]}}, "apptainer cannot bind '/a,b'"),
        ({"container": {"kind": "charliecloud", "image": "x", "binds": ["/a:/b:ro"]}}, "cannot bind /a read-only"),
        ({"container": {"kind": "pyxis", "image": "x"}, "shared": "/a b"}, "pyxis cannot bind '/a b'"),
    ],
)
def test_mistakes_name_the_field_and_what_would_work(changes: dict[str, Any], told: str) -> None:
    assert told in refusal(**changes)


def test_networks_are_interfaces_too() -> None:
    assert ClusterConfig(**SMALLEST, interface="10.1.2.3/16").interface == "10.1.0.0/16"
    assert ClusterConfig(**SMALLEST, interface="ib0").interface == "ib0"


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Container().kind = "pyxis"  # type: ignore[misc]


@given(st.text())
def test_no_shared_folder_can_break_a_line(text: str) -> None:
    try:
        shared = str(ClusterConfig(**{**SMALLEST, "shared": f"/{text}"}).shared)
    except ValidationError as error:
        (shared,) = (str(part) for part in error.errors()[0]["loc"])
    assert shared == "shared" or (shared.startswith("/") and len(shared.splitlines()) == 1)
