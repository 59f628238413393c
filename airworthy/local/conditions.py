"""Conditions of `dsl.If` and `dsl.Elif`: the CEL expressions that the KFP compiler writes.

Values are bound as data and never pasted into the text. Whatever can't be evaluated raises: a gate that can't
be read must not look closed, and much less open.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from airworthy.errors import ConfigError, EngineError

# What the compiler emits: comparisons of inputs and literals, joined by `&&` and negated.
_GRAMMAR = re.compile(
    r"expr|conditionalor|conditionaland|relation(_(eq|ne|lt|le|gt|ge))?|addition|multiplication|unary(_not|_neg)?"
    r"|member(_dot|_index)?|primary|paren_expr|literal|ident|ident_arg|exprlist"
)
_NAMES = {"ident": {"inputs"}, "ident_arg": {"int", "double"}}


@functools.cache
def _environment() -> Any:
    import celpy

    return celpy.Environment()


@functools.lru_cache(maxsize=256)
def compiled(condition: str) -> Any:
    """The syntax tree of a condition.

    Raises:
        ConfigError: It isn't CEL, or uses more of CEL than the KFP compiler emits.
    """
    import celpy

    try:
        tree = _environment().compile(condition)
    except celpy.CELParseError:
        raise ConfigError(
            f"The condition {condition!r} can't be parsed; compare with a literal without single quotes, "
            "and numbers with numbers."
        ) from None
    for node in tree.iter_subtrees():
        unknown = None if _GRAMMAR.fullmatch(str(node.data)) else str(node.data)
        if node.data in _NAMES and str(node.children[0]) not in _NAMES[str(node.data)]:
            unknown = str(node.children[0])
        if unknown:
            raise ConfigError(
                f"The condition {condition!r} uses {unknown!r}, which this engine doesn't know."
            )
    return tree


def holds(condition: str, parameters: Mapping[str, Any]) -> bool:
    """Evaluates a condition.

    Args:
        condition: CEL text such as `int(inputs.parameter_values['pipelinechannel--n']) > 3`.
        parameters: Values of the task's own inputs; an unset optional input is None, equal to nothing else.

    Raises:
        ConfigError: The text can't be parsed.
        EngineError: It can't be evaluated with these values, or its value isn't true or false.
    """
    import celpy
    from celpy import celtypes

    program = _environment().program(compiled(condition), functions={"int": _to_int, "double": _to_double})
    values = {celtypes.StringType(key): _bind(value) for key, value in parameters.items()}
    inputs = celtypes.MapType({celtypes.StringType("parameter_values"): celtypes.MapType(values)})
    try:
        result = program.evaluate({"inputs": inputs})
    except celpy.CELEvalError as error:
        raise EngineError(
            f"The condition {condition!r} can't be evaluated with these values: {error.args[0]}."
        ) from None
    if not isinstance(result, celtypes.BoolType):
        raise EngineError(f"The condition {condition!r} is neither true nor false.")
    return bool(result)


def _bind(value: Any) -> Any:
    from celpy import celtypes

    if value is None:
        return None
    if isinstance(value, bool):
        return celtypes.BoolType(value)
    if isinstance(value, int):
        return celtypes.IntType(value)
    if isinstance(value, float):
        return celtypes.DoubleType(value)
    if isinstance(value, str):
        return celtypes.StringType(value)
    # The compiler refuses comparisons of lists and dicts; they may be inputs of the branch all the same.
    return None


def _to_int(value: Any) -> Any:
    from celpy import celtypes

    return celtypes.IntType(_set(value))


def _to_double(value: Any) -> Any:
    from celpy import celtypes

    return celtypes.DoubleType(_set(value))


def _set(value: Any) -> Any:
    # cel-python turns null into 0, which would let `unset < 1` pass.
    if value is None:
        raise EngineError("A condition compares the number of an input that has no value.")
    return value
