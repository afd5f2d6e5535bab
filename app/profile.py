"""Profiles as files: found, parsed, laid over each other, and remembered for error messages."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deployments.tribunal.config import PREFIX, TribunalSpec, virtual_id

PROFILES = Path(__file__).parent / "profiles"
"""The folder of the built-in profiles, NAME.yaml."""
DEEPEST, MOST_VALUES = 64, 100_000
"""Of one file. Aliases are counted each time: a few lines of them stand for more values than memory holds."""


class SettingsError(Exception):
    """The profile or the environment is wrong. The text has one line for each problem."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Layer:
    """One place that settings were written: a file, or a variable of the environment."""

    name: str
    data: dict[str, Any]


def built_in() -> list[str]:
    """The names of the built-in profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def read_layers(profile: str | Path) -> list[Layer]:
    """The profile and, before it, what it extends. Relative sources are made absolute, each from its own file."""
    layers: list[Layer] = []
    path, seen = _find(profile, Path.cwd()), list[Path]()
    while True:
        if path in seen:
            raise SettingsError(f"{path}: extends: goes round in a circle: {' -> '.join(map(str, [*seen, path]))}")
        seen.append(path)
        data = _parsed(path)
        parent = data.pop("extends", None)
        layers.insert(0, Layer(str(path), data))
        if parent is None:
            return layers
        path = _find(str(parent), path.parent, f"{path}: extends: ")


def _parsed(path: Path) -> dict[str, Any]:
    data = parse(path)
    try:
        return _anchored(data, path.parent)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def merged(layers: list[Layer]) -> dict[str, Any]:
    """All layers in one, later over earlier; an inherited model or tribunal set to null is dropped.

    Tribunals that were inherited lose the members that are dropped, and are dropped where they cannot sit without.
    """
    data: dict[str, Any] = {}
    for layer in layers:
        before = data
        data = deep_merge(before, layer.data)
        models, tribunals = _drop("models", before, data), _drop("tribunals", before, data)
        gone = {served for key, spec in models.items() for served in (key, *_adapters(spec))} | _virtual_ids(tribunals)
        if gone and isinstance(data.get("tribunals"), dict) and isinstance(before.get("tribunals"), dict):
            untouched = {key for key, spec in data["tribunals"].items() if spec == before["tribunals"].get(key)}
            data["tribunals"] = _without(gone, untouched, data["tribunals"])
    return data


def _drop(part: str, before: Mapping[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Take out what was inherited and is null now; returns it as it was."""
    inherited, now = before.get(part), data.get(part)
    if not isinstance(inherited, dict) or not isinstance(now, dict):
        return {}
    gone = {key: inherited[key] for key, value in now.items() if value is None and inherited.get(key) is not None}
    data[part] = {key: value for key, value in now.items() if key not in gone}
    return gone


def _adapters(model: Any) -> Iterable[str]:
    lora = model.get("lora") if isinstance(model, dict) else None
    adapters = lora.get("adapters") if isinstance(lora, dict) else None
    return adapters if isinstance(adapters, dict) else ()


def _virtual_ids(tribunals: Iterable[str]) -> set[str]:
    """Every id under which a member can be one of these tribunals."""
    return {spelled for name in tribunals for spelled in (virtual_id(name), f"{PREFIX}/{name}")}


def _without(gone: set[str], untouched: set[str], tribunals: dict[str, Any]) -> dict[str, Any]:
    """The tribunals; those that nobody touched, without the members of these ids, and so on for those that go."""
    kept = {key: _pruned(spec, gone) if key in untouched else spec for key, spec in tribunals.items()}
    lost = {key for key in untouched if kept[key] is None}
    if not lost:
        return kept
    rest = {key: spec for key, spec in kept.items() if key not in lost}
    return _without(_virtual_ids(lost), untouched - lost, rest)


def _pruned(spec: Any, gone: set[str]) -> Any:
    """The tribunal without the members that are gone; None if it cannot sit without."""
    before = _tribunal(spec)
    if before is None:
        return spec  # what is wrong with it is told later
    if before.chair is not None and before.chair.model in gone:
        return None
    pairs = zip(spec["members"], before.members, strict=True)
    after = {**spec, "members": [said for said, member in pairs if member.model not in gone]}
    return None if _tribunal(after) is None else after


def _tribunal(spec: Any) -> TribunalSpec | None:
    try:
        return TribunalSpec.model_validate(spec)
    except ValidationError:
        return None


def deep_merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; anything else above replaces what is below."""
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = deep_merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def origin(layers: list[Layer], path: tuple[str, ...], message: str = "") -> str:
    """The uppermost layer that says `path` (with a key that `message` calls unknown), or as much of it as any does."""
    unknown = re.match(r"unknown key '([^']*)'", message)
    path = (*path, unknown[1]) if unknown else path
    for length in range(len(path), 0, -1):
        for layer in reversed(layers):
            if _has(layer.data, path[:length]):
                return layer.name
    return layers[-1].name


def _has(data: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


def absolute(source: str, base: Path) -> str:
    """Make a local path (./x, ../x, ~/x, /x) absolute; leave everything else as it is. Raises SettingsError."""
    if source in (".", "..") or source.startswith(("./", "../", "~", "/")):
        return str(_resolved(source, base))
    return source


def _resolved(text: str, base: Path) -> Path:
    try:
        return (base / _expanded(text)).resolve()
    except (RuntimeError, OSError) as error:  # links in a circle
        raise SettingsError(f"{text!r} is no path here: {error}") from None


def _expanded(text: str) -> Path:
    try:
        path = Path(text).expanduser()
        if b"\0" in os.fsencode(path):
            raise ValueError("a null character is in it")
    except (RuntimeError, ValueError) as error:  # nobody has that name; half of a surrogate pair
        raise SettingsError(f"{text!r} is no path here: {error}") from None
    return path


def absolute_folder(folder: str, base: Path) -> str:
    """Make any relative path or ~ absolute; links stay as they are written, for other machines may have others.

    Raises SettingsError.
    """
    return os.path.normpath(base / _expanded(folder))


def _find(profile: str | Path, base: Path, where: str = "") -> Path:
    if isinstance(profile, str) and profile in built_in():
        return PROFILES / f"{profile}.yaml"
    try:
        path = _resolved(str(profile), base)
        if path.is_file():
            return path
    except (SettingsError, OSError) as error:  # a name may be too long, a folder closed
        raise SettingsError(f"{where}{error}") from None
    raise SettingsError(
        f"{where}{profile}: there is no profile of that name and no such file; "
        f"built-in profiles: {', '.join(built_in())}"
    )


def parse(path: Path) -> dict[str, Any]:
    """A YAML file's top mapping ({} if it is empty), of kinds that JSON has. Raises SettingsError with the line."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise SettingsError(f"{path}:{line} not valid YAML: {error.problem}") from None
    except OverflowError:
        raise SettingsError(f"{path}: not valid YAML: no character has the number of one of its \\U escapes") from None
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise SettingsError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict | None):
        raise SettingsError(f"{path}: a profile is keys and values (models: ...), not a {type(data).__name__}")
    if problem := _problem(data or {}):
        raise SettingsError(f"{path}: {problem}")
    return data or {}


def _problem(data: dict[Any, Any]) -> str | None:
    """Why these are no settings, whatever their keys are called."""
    for key in data:
        if not isinstance(key, str):
            return f"the key {key!r} is not text; put it in quotes"
        if key.startswith("_"):
            return f"unknown key {key!r}; no key begins with '_'"
    level: list[Any] = [data]
    count = 0
    for _ in range(DEEPEST):
        level = list(islice(chain.from_iterable(map(_inner, level)), MOST_VALUES - count + 1))
        count += len(level)
        if count > MOST_VALUES:
            return f"it has more than {MOST_VALUES:,} values, each alias counted; write fewer"
        if strange := [value for value in level if not isinstance(value, _PLAIN)]:
            return f"{strange[0]!r} is a {type(strange[0]).__name__}; use text, numbers, lists, and keys and values"
        if not level:
            return None
    return f"it is nested deeper than {DEEPEST} levels"


_HALVES = re.compile("[\\ud800-\\udfff]")
_PLAIN = (dict, list, str, int, float, type(None))


def unwritable(data: Any, place: str = "") -> Iterator[str]:
    """A line for each key or value that JSON in UTF-8 has not; fields that take anything would let it through."""
    if (isinstance(data, str) and _HALVES.search(data)) or (isinstance(data, float) and not isfinite(data)):
        yield f"{place}: half of a character, or no finite number; use whole characters and finite numbers"
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        inner = f"{place}.{key}" if place else str(key)
        if isinstance(key, str) and _HALVES.search(key):
            yield f"{inner!a}: the key has half of a character; use whole ones"
        yield from unwritable(value, inner)


def _inner(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice in one mapping. Dates are text, as in JSON."""

    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if tag != "tag:yaml.org,2002:timestamp"]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError):  # of `!!bool x` and of 5,000 digits
            problem = f"{str(node.value)[:64]!r} cannot be read as {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if lines.setdefault(str(key.value), line) != line and key.value != "<<":
                problem = f"the key {key.value!r} is already there on line {lines[str(key.value)]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


def _anchored(data: dict[str, Any], base: Path) -> dict[str, Any]:
    """The same data with the local paths of models, adapters, documents, keys and the cluster absolute."""
    models, cluster, rag = data.get("models"), data.get("cluster"), data.get("rag")
    if isinstance(models, dict):
        data = {**data, "models": {key: _anchored_model(spec, base) for key, spec in models.items()}}
    if isinstance(cluster, dict):
        data = {**data, "cluster": _anchored_cluster(cluster, base)}
    if isinstance(rag, dict):
        data = {**data, "rag": _anchored_rag(rag, base)}
    if isinstance(access := data.get("access"), dict):
        data = {**data, "access": _anchored_access(access, base)}
    return data


def _anchored_access(access: dict[str, Any], base: Path) -> dict[str, Any]:
    access = _absolute_at(access, ("file",), base)
    if isinstance(tls := access.get("tls"), dict):
        access["tls"] = _absolute_at(tls, ("certificate", "key"), base)
    return access


def _absolute_at(section: dict[str, Any], keys: tuple[str, ...], base: Path) -> dict[str, Any]:
    """The same section with the folders or files under these keys absolute."""
    found = {key: absolute_folder(section[key], base) for key in keys if isinstance(section.get(key), str)}
    return {**section, **found}


def _anchored_rag(rag: dict[str, Any], base: Path) -> dict[str, Any]:
    rag = dict(rag)
    if isinstance(rag.get("folder"), str):
        rag["folder"] = absolute_folder(rag["folder"], base)
    for section, key in (("embedding", "model"), ("search", "reranker")):
        inner = rag.get(section)
        if isinstance(inner, dict) and isinstance(inner.get(key), str):
            rag[section] = {**inner, key: absolute(inner[key], base)}
    return rag


def _anchored_cluster(cluster: dict[str, Any], base: Path) -> dict[str, Any]:
    cluster = _absolute_at(cluster, ("shared", "local"), base)
    container = cluster.get("container")
    if isinstance(container, dict) and isinstance(container.get("image"), str):
        cluster["container"] = {**container, "image": absolute(container["image"], base)}
    return cluster


def _anchored_model(spec: Any, base: Path) -> Any:
    if not isinstance(spec, dict):
        return spec
    spec = dict(spec)
    if isinstance(spec.get("source"), str):
        spec["source"] = absolute(spec["source"], base)
    lora = spec.get("lora")
    if isinstance(lora, dict) and isinstance(lora.get("adapters"), dict):
        adapters = {k: absolute(v, base) if isinstance(v, str) else v for k, v in lora["adapters"].items()}
        spec["lora"] = {**lora, "adapters": adapters}
    return spec
