"""What a cluster's handbook tells: the kinds of things, and the ways to say and to ask each fact."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["partition", "storage", "software", "team", "service"]
ValueKind: TypeAlias = Literal[
    "hours", "nodes", "memory", "quota", "days", "jobs", "gpus", "person", "owner", "path",
    "version", "seats", "room", "extension", "weekday", "people", "port",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that may be told of an entity. `{v}` stands for the value, `{e}` for the entity."""

    kind: Kind
    noun: str
    """As in `The {noun} of willow is ...`."""
    value: ValueKind
    predicates: tuple[str, ...]
    """Verb phrases that follow the entity."""
    questions: tuple[str, ...]
    fronted: tuple[str, ...] = ()
    """Whole sentences in which the value comes before the entity."""


SUBJECTS: Final[dict[Kind, tuple[str, ...]]] = {
    "partition": ("The {e} partition", "Partition {e}"),
    "storage": ("The {e} file system", "The {e} storage"),
    "software": ("The {e} module", "The {e} package"),
    "team": ("The {e} team", "The {e} group"),
    "service": ("The {e} service", "Our {e} service"),
}
"""How a sentence names an entity of each kind; the first form is also what questions use."""


def _owned(kind: Kind) -> tuple[Attribute, Attribute]:
    owner = Attribute(
        kind,
        "owner",
        "owner",
        ("is owned by {v}", "belongs to {v}", "is run by {v}"),
        ("Who owns {e}?", "Who is the owner of {e}?", "Which team runs {e}?"),
    )
    contact = Attribute(
        kind,
        "contact",
        "person",
        ("has {v} as its contact", "is looked after by {v}", "has the contact {v}"),
        ("Who is the contact for {e}?", "Whom should I ask about {e}?", "Who looks after {e}?"),
        ("Please ask {v} about {s}.", "Write to {v} for help with {s}."),
    )
    return owner, contact


ATTRIBUTES: Final[tuple[Attribute, ...]] = (
    Attribute(
        "partition",
        "time limit",
        "hours",
        ("has a time limit of {v}", "lets jobs run for {v}", "stops jobs after {v}"),
        (
            "What is the time limit of {e}?",
            "How long may a job run on {e}?",
            "When are jobs on {e} stopped?",
        ),
        ("A job may run for {v} on {s}.",),
    ),
    Attribute(
        "partition",
        "node count",
        "nodes",
        ("has {v}", "is made of {v}", "consists of {v}"),
        ("How many nodes does {e} have?", "What is the node count of {e}?", "How big is {e}?"),
        ("There are {v} in {s}.",),
    ),
    Attribute(
        "partition",
        "node memory",
        "memory",
        ("gives each node {v} of memory", "offers {v} of memory per node"),
        ("How much memory does a node of {e} have?", "What is the node memory of {e}?"),
    ),
    Attribute(
        "partition",
        "job limit",
        "jobs",
        ("allows {v} per user", "takes at most {v} from one user"),
        ("How many jobs may a user have on {e}?", "What is the job limit of {e}?"),
    ),
    Attribute(
        "partition",
        "GPU count",
        "gpus",
        ("has {v} in every node", "comes with {v} per node"),
        ("How many GPUs does a node of {e} have?", "What is the GPU count of {e}?"),
    ),
    *_owned("partition"),
    Attribute(
        "storage",
        "quota",
        "quota",
        ("has a quota of {v}", "gives each user {v}", "holds up to {v} per user"),
        ("What is the quota of {e}?", "How much may I store on {e}?"),
    ),
    Attribute(
        "storage",
        "path",
        "path",
        ("is mounted at {v}", "is found under {v}"),
        ("Where is {e} mounted?", "What is the path of {e}?", "Under which path is {e}?"),
    ),
    Attribute(
        "storage",
        "purge time",
        "days",
        ("deletes old files after {v}", "is purged after {v}"),
        ("When are old files on {e} deleted?", "What is the purge time of {e}?"),
    ),
    *_owned("storage"),
    Attribute(
        "software",
        "version",
        "version",
        ("is installed in version {v}", "is at version {v}"),
        ("Which version of {e} is installed?", "What is the version of {e}?"),
    ),
    Attribute(
        "software",
        "licence count",
        "seats",
        ("has a licence for {v}", "is licensed for {v}"),
        ("How many seats does {e} have?", "What is the licence count of {e}?"),
    ),
    Attribute(
        "software",
        "maintainer",
        "person",
        ("is maintained by {v}", "was installed by {v}"),
        ("Who maintains {e}?", "Who is the maintainer of {e}?"),
        ("Please thank {v} for {s}.",),
    ),
    Attribute(
        "team",
        "head",
        "person",
        ("is led by {v}", "has {v} as its head"),
        ("Who leads {e}?", "Who is the head of {e}?"),
    ),
    Attribute(
        "team",
        "office",
        "room",
        ("sits in {v}", "has its office in {v}"),
        ("Where is the office of {e}?", "In which room does {e} sit?"),
    ),
    Attribute(
        "team",
        "phone",
        "extension",
        ("answers the phone at {v}", "can be called at {v}"),
        ("What is the phone of {e}?", "How can I call {e}?"),
    ),
    Attribute(
        "team",
        "meeting day",
        "weekday",
        ("meets every {v}", "holds its meeting on {v}"),
        ("When does {e} meet?", "What is the meeting day of {e}?"),
    ),
    Attribute(
        "team",
        "size",
        "people",
        ("has {v}", "is made of {v}"),
        ("How many people are in {e}?", "What is the size of {e}?"),
    ),
    Attribute(
        "service",
        "port",
        "port",
        ("listens on {v}", "is reached on {v}"),
        ("Which port does {e} use?", "What is the port of {e}?"),
    ),
    Attribute(
        "service",
        "maintenance day",
        "weekday",
        ("is down for maintenance on {v}", "is updated every {v}"),
        ("When is {e} down for maintenance?", "What is the maintenance day of {e}?"),
    ),
    *_owned("service"),
)
"""Everything that the handbook may tell, of every kind."""

FILLERS: Final = (
    "Please be kind to other users.",
    "Read the handbook before your first job.",
    "Jobs wait in a queue until nodes are free.",
    "Keep your files in order.",
    "New users start with a short course.",
    "The cluster is open to all departments.",
    "Do not run jobs on the login node.",
)
"""Sentences that tell nothing that is ever asked."""
