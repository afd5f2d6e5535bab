"""Where and how it was measured: machine, versions, plan, configuration, and how to repeat it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from loadtests.records import ASK_SEVERAL, Machine, Plan, Point, Side
from loadtests.report import words
from loadtests.report.contents import Contents
from loadtests.report.document import Detail, Section
from loadtests.sweep.aggregate import limits_in_words

DUMMY = (
    "The weights are random (load_format: dummy): the shapes, and with them the work for each token, are those of "
    "the models named, but what they answer means nothing."
)
POCKET = (
    "The models are pocket models, of the named Llamas' architecture but far smaller: their figures tell what the "
    "service costs, not how fast a model of that name is."
)
SAME_MACHINE = (
    "Client and endpoint shared one machine, so they took processor time from each other: apart, the endpoint would "
    "be no slower."
)
APART = "Client and endpoint ran on different machines: the network between them is in the latencies."


def leaves(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every plain value in a configuration with its key; in a list of arguments `--key value` and `--key=value` too."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, str(name))
    elif isinstance(value, list | tuple):
        for one, following in zip(value, [*value[1:], ""], strict=False):
            yield from leaves(one, key)
            if isinstance(one, str) and one.startswith("--"):
                name, _, told = one[2:].partition("=")
                yield name, told or str(following)
    else:
        yield key, str(value)


def random_weights(configuration: dict[str, object]) -> bool:
    pairs = ((key.replace("-", "_"), value) for key, value in leaves(configuration))
    return any(key == "load_format" and value == "dummy" for key, value in pairs)


def pocket_models(configuration: dict[str, object]) -> bool:
    return any(value.startswith("pocket:") for _, value in leaves(configuration))


def about_weights(configuration: dict[str, object]) -> list[str]:
    """What a reader must know of the weights before any figure."""
    random, pocket = random_weights(configuration), pocket_models(configuration)
    return [text for told, text in ((random, DUMMY), (pocket, POCKET)) if told]


def section(contents: Contents) -> Section:
    record = contents.record
    return Section(
        title="Set-up",
        anchor="setup",
        points=(
            *(_side(each, contents.plan.points) for each in contents.sides),
            *machine(record.machine),
            *_plan(contents.plan),
            *about_weights(record.configuration),
        ),
        details=tuple(_details(contents)),
        texts=(SAME_MACHINE if record.machine.same_machine else APART,),
    )


def _details(contents: Contents) -> Iterator[Detail]:
    record = contents.record
    if contents.command:
        yield Detail("How to repeat it", contents.command, open=True)
    yield Detail("The plan", pretty(contents.plan.model_dump(mode="json")))
    if record.configuration:
        yield Detail("The configuration", pretty(record.configuration))
    yield Detail("The machine and its versions", pretty(record.machine.model_dump(mode="json")))


def pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def differences(contents: Contents) -> list[str]:
    """How this run's set-up differs from the paper's, as far as either is known."""
    about, configuration = contents.record.machine, contents.record.configuration
    hardware = _gpus(about) if about.gpus else f"no GPU, {about.cpu}"
    where = "" if about.same_machine else " (of the machine that asked; the endpoint's own may differ)"
    asked = words.listed(list(dict.fromkeys(words.tokens(each) for each in contents.plan.points)))
    return [
        f"Hardware: ours {hardware}{where}; the paper's GPU types are not known to us.",
        " ".join(["Models: the sizes alone are the same.", *about_weights(configuration)]),
        f"Lengths: ours {asked}; the paper's token limits are not known to us.",
    ]


def _side(side: Side, points: Sequence[Point]) -> str:
    told = {each.model: _behind(side.gpus_behind(each)) for each in points if each.kind not in ASK_SEVERAL}
    if len(set(told.values())) > 1:
        gpus = ", ".join(f"{model} {count}" for model, count in told.items())
    else:
        gpus = next(iter(told.values()), _behind(side.gpus))
    server = f", {side.server}" if side.server else ""
    return f"{side.name}: {side.url}{server}, {gpus}"


def _behind(gpus: float | None) -> str:
    if gpus is None:
        return "GPUs not known"
    return f"{gpus:g} GPU{'s' * (gpus != 1)}" if gpus else "no GPU"


def machine(machine: Machine) -> Iterator[str]:
    gpus = _gpus(machine) if machine.gpus else "no GPU"
    driver = f", driver {machine.driver}" if machine.driver else ""
    cores = words.counted(machine.cores, "core")
    yield f"Machine: {machine.cpu}, {cores}, {machine.memory_gib:.0f} GiB of memory, {gpus}{driver}"
    versions = {"": machine.system, "Python": machine.python, **machine.versions}
    told = ", ".join(f"{name} {version}".strip() for name, version in versions.items() if version)
    if told:
        yield f"Versions: {told}"


def _gpus(machine: Machine) -> str:
    """`2 x NVIDIA H200`."""
    counts = Counter(machine.gpus)
    return words.listed([f"{count} x {name}" if count > 1 else name for name, count in counts.items()])


def _plan(plan: Plan) -> Iterator[str]:
    yield (
        f"Each point {words.counted(plan.repeats, 'time')}, {plan.requests_per_user} requests for each user and at "
        f"least {plan.min_requests}, at most {plan.max_seconds:g} s; before it a warm-up of "
        f"{words.counted(plan.warmup_requests, 'request')} for each user that is in no figure"
    )
    yield f"Prompts: {plan.workload}, seed {plan.seed}, temperature {plan.temperature:g}"
    yield f"Limits: {limits_in_words(plan.limits) or 'none stated'}"
