"""What an answer rests on, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.capacity import roofline
from app.capacity.question import Measured, Question
from app.gpus import GPUS
from loadtests.client.prompts import Lengths


def assumed(question: Question, measured: Measured | None, nodes: Mapping[str, int]) -> list[str]:
    """`nodes`: GPUs of a node by type."""
    behaviour = question.behaviour
    turns = f", {behaviour.turns} questions a session, each with what was said before" if behaviour.turns > 1 else ""
    lines = [
        f"A user thinks {behaviour.think_s:g} s on average (exponential), asks {_words(behaviour.inputs)} input tokens "
        f"and reads {_words(behaviour.outputs)} output tokens{turns}; then again.",
        _measured(question, measured) if measured else _roofline(nodes),
        "A sequence keeps the KV cache of its whole length from its begin; no prefix is shared. The address and the "
        "network between nodes are not simulated, and no replica is spare for one that fails.",
    ]
    on_gpus = {device: count for device, count in nodes.items() if device != "CPU"}
    if on_gpus:
        lines.append(f"GPUs of a node: {', '.join(f'{count} {device}' for device, count in on_gpus.items())}.")
    return lines


def _words(lengths: Lengths) -> str:
    if lengths.distribution == "fixed":
        return f"{lengths.mean}"
    return f"{lengths.mean} ({lengths.distribution}, {lengths.spread:g})"


def _measured(question: Question, measured: Measured) -> str:
    machine = measured.run.record.machine
    where = ", ".join(machine.gpus) or f"{machine.cores} cores of {machine.cpu}"
    return (
        f"Curve: measured ({measured.folder}, side {measured.side}, client on {where}), one replica behind the "
        f"endpoint; for each replica a host or GPUs like those. Requests longer than the measured ones take longer "
        f"steps than are counted here."
    )


def _roofline(devices: Iterable[str]) -> str:
    modules = ", ".join(each for each in devices if each in GPUS and GPUS[each].sxm)
    sxm = f" ({modules}: of the SXM module; the PCIe card of that name is slower)" if modules else ""
    return (
        f"Curve: none was measured, so the roofline of the GPUs' data sheets{sxm}, which no engine beats, at "
        f"{roofline.BANDWIDTH_EFFICIENCY:.0%} of its bandwidth and {roofline.COMPUTE_EFFICIENCY:.0%} of its FLOP/s, "
        f"{roofline.TENSOR_EFFICIENCY:.0%} of that for each doubling of tensor_parallel, and "
        f"{roofline.STEP_OVERHEAD_S * 1000:g} ms a step. An estimate: `corral bench` measures, --curve takes it."
    )
