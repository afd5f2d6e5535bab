"""The vLLM that is installed has the names that metering rests on."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from deployments.metering import DELTA, FINAL_ONLY


def _vllm(path: str, name: str) -> ast.ClassDef:
    """A class of the vLLM that is installed, unimported."""
    found = importlib.util.find_spec("vllm")
    assert found
    assert found.submodule_search_locations
    tree = ast.parse((Path(found.submodule_search_locations[0]) / path).read_text())
    return next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)


def _function(node: ast.ClassDef, name: str) -> ast.AsyncFunctionDef | ast.FunctionDef:
    kinds = (ast.AsyncFunctionDef, ast.FunctionDef)
    return next(each for each in node.body if isinstance(each, kinds) and each.name == name)


def _attributes(node: ast.AST) -> set[str]:
    return {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


def test_this_vllm_has_the_names_that_this_rests_on() -> None:
    client = _vllm("v1/engine/async_llm.py", "AsyncLLM")
    generate, encode = _function(client, "generate"), _function(client, "encode")
    assert [each.arg for each in generate.args.args] == ["self", "prompt", "sampling_params", "request_id"]
    assert "lora_request" in [each.arg for each in generate.args.kwonlyargs]
    assert [each.arg for each in encode.args.args][1:5] == ["prompt", "pooling_params", "request_id", "lora_request"]
    assert "add_request" in _attributes(generate) & _attributes(encode)
    state = _function(_vllm("v1/engine/output_processor.py", "RequestState"), "__init__")
    assert {"prompt_len", "is_prefilling", "num_cached_tokens", "detokenizer", "queue"} <= _attributes(state)
    assert "request_states" in _attributes(
        _function(_vllm("v1/engine/output_processor.py", "OutputProcessor"), "__init__")
    )
    assert _function(_vllm("v1/engine/detokenizer.py", "IncrementalDetokenizer"), "num_output_tokens")
    kinds = {
        each.id for each in ast.walk(_vllm("sampling_params.py", "RequestOutputKind")) if isinstance(each, ast.Name)
    }
    assert {DELTA, FINAL_ONLY} <= kinds
