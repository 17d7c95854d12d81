"""What a key takes, in words: for error messages and for the reference file."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import inspect


def describe(kind: Any) -> str:
    """ "integer, 0 to 48", "one of "tcp", "tls"", "true or false", "text" …"""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(plain) is Literal:
        choices = [msgspec.json.encode(each).decode() for each in get_args(plain)]
        return f"one of {', '.join(choices)}"
    match inspect.type_info(kind):
        case inspect.IntType(ge=low, le=high):
            return f"integer, {low} to {high}"
        case inspect.FloatType(gt=above, ge=low, le=high):
            return f"number, above {above:g} to {high:g}" if above is not None else f"number, {low:g} to {high:g}"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType(pattern=pattern):
            return f"text that matches {pattern}" if pattern else "text"
        case inspect.UnionType():  # only with None, which is what an unset key means
            return describe(get_args(plain)[0])
        case inspect.VarTupleType():
            return f"list, each {describe(get_args(plain)[0])}"
        case inspect.TupleType():
            return f"[{', '.join(map(describe, get_args(plain)))}]"
        case inspect.DictType():
            return f"table of NAME = {describe(get_args(plain)[1])}"
    raise TypeError(f"{kind} has no words")


def shown(value: Any) -> str:
    """A value as TOML would write it, cut short: for error messages."""
    finite = not isinstance(value, float) or math.isfinite(value)
    text = msgspec.json.encode(value, enc_hook=str).decode() if finite else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
