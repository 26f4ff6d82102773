"""A `where` text to an Arrow expression: parsed and translated, never evaluated as code."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.errors import BadInput

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def parse_where(text: str, columns: Collection[str]) -> pc.Expression:
    """The Arrow expression of a text such as `i_mag < 22 and not (z is None or kind in ["star", "qso"])`.

    Known: column names, numbers, text, True, False, comparison (chained too), `in` a list, `is None`, `is not None`,
    and, or, not, + - * /, unary minus. A comparison with a null is null: the row does not pass.
    Raises BadInput naming what is not understood or not a column.
    """

    def refuse(node: ast.AST, what: str) -> BadInput:
        return BadInput(f"{what} in the expression", where=text, part=ast.unparse(node))

    def constant(node: ast.Constant) -> bool | int | float | str:
        if not isinstance(node.value, bool | int | float | str):
            raise refuse(node, "only numbers, text, True and False are values")
        if isinstance(node.value, int) and node.value >= 2**63:
            raise refuse(node, "a whole number of more than 64 bits")
        return node.value

    def literal(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return constant(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            number = constant(node.operand)
            if not isinstance(number, str):
                return -number
        raise refuse(node, "only plain values may stand in a list")

    def compare(left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple):
                raise refuse(right, "`in` needs a list of values")
            found = value(left).isin([literal(item) for item in right.elts])
            return ~found if isinstance(op, ast.NotIn) else found
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise refuse(right, "`is` is for None alone")
            return value(left).is_valid() if isinstance(op, ast.IsNot) else value(left).is_null()
        return _COMPARE[type(op)](value(left), value(right))

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Name(id=name):
                if name not in columns:
                    raise BadInput(f"unknown column {name!r}", where=text, hint=f"columns: {', '.join(sorted(columns))}")
                return pc.field(name)
            case ast.Constant():
                return pc.scalar(constant(node))
            case ast.BoolOp(op=op, values=parts):
                result = value(parts[0])
                for part in parts[1:]:
                    result = result & value(part) if isinstance(op, ast.And) else result | value(part)
                return result
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~value(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return pc.scalar(0) - value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](value(left), value(right))
            case ast.Compare(left=left, ops=ops, comparators=rights):
                result = None
                for one, comparison, other in zip([left, *rights], ops, rights, strict=False):
                    part = compare(one, comparison, other)
                    result = part if result is None else result & part
                return result
        raise refuse(node, f"{type(node).__name__} is not allowed")

    try:
        return value(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        at = f"character {error.offset}" if error.offset else "its end"
        raise BadInput("cannot parse the expression", where=text, at=at, reason=error.msg) from error
    except (RecursionError, MemoryError) as error:  # the latter is what Python's parser raises
        raise BadInput("the expression is nested too deeply", where=f"{text[:80]}...") from error


def columns_of(text: str | None) -> set[str]:
    """Names that a `where` text reads."""
    if text is None:
        return set()
    return {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}


def select(table: pa.Table, text: str | None) -> pa.Table:
    """The rows of a table that pass. Raises BadInput where column types do not fit the expression."""
    if text is None:
        return table
    try:
        return table.filter(parse_where(text, table.column_names))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise BadInput("the expression does not fit the types of its columns", where=text, reason=str(error)) from error
