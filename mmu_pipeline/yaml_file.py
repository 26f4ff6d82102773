"""A YAML file to a validated model; whatever is wrong with it is named by file, line and key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mmu_pipeline.errors import BadInput

Model = TypeVar("Model", bound=BaseModel)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, in C where it is there, with true and false as in YAML 1.2: `on`, a key of recipes, is a word."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [known for known in resolvers if known[0] != _BOOL] for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


class Misplaced(ValueError):
    """What is wrong between several keys of a file, and the path to the key that it is blamed on."""

    def __init__(self, what: str, *loc: str | int) -> None:
        self.loc = loc
        super().__init__(what)


def load_yaml(path: Path, kind: type[Model]) -> Model:
    """One YAML file as a validated model. Raises BadInput naming file, line and key."""
    try:
        loader = _Loader(path.read_text("utf-8"))
        tree = loader.get_single_node()
        data = None if tree is None else loader.construct_document(tree)
    except OSError as error:
        raise BadInput("cannot read the file", file=path, reason=error.strerror) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise BadInput(f"not valid YAML: {error.problem}", file=path, line=line) from error
    except (yaml.YAMLError, ValueError, AttributeError) as error:  # what is no text; dates and numbers that are none
        raise BadInput(f"not valid YAML: {error}", file=path) from error
    if not isinstance(data, dict) or tree is None:
        raise BadInput("expected a mapping of keys to values", file=path, line=1)
    try:
        _no_repeated_keys(tree, path, set())
    except RecursionError as error:
        raise BadInput("not valid YAML: a node that holds itself", file=path) from error
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        found = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        problems = [(_place(tree, _loc(problem)), _wording(problem)) for problem in found]
        (key, line), message = problems[0]
        more = f"{len(problems) - 1} more problem(s) in this file follow once this one is mended" if problems[1:] else ""
        if found[0]["type"] == "extra_forbidden" and len(found[0]["loc"]) == 1:
            more = f"keys of a {kind.__name__.lower()} are: {', '.join(kind.model_fields)}"
        raise BadInput(message, file=path, line=line, key=key or None, hint=more) from error


def wrong(path: Path, what: str, *loc: str | int, hint: str = "") -> BadInput:
    """The error that blames a key of a file which is a sound model by itself: with the key's line, if the file is still there."""
    try:
        tree = yaml.compose(path.read_text("utf-8"), Loader=_Loader)
    except (OSError, yaml.YAMLError):
        tree = None
    key, line = _place(tree, loc) if tree is not None else (".".join(map(str, loc)), None)
    return BadInput(what, file=path, line=line, key=key or None, hint=hint)


def _loc(problem: Any) -> tuple[int | str, ...]:
    return (*problem["loc"], *getattr(problem.get("ctx", {}).get("error"), "loc", ()))


def _wording(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown key"
    if problem["type"] == "missing":
        return "required key is missing"
    return str(problem["msg"]).removeprefix("Value error, ")


def _place(tree: yaml.Node, loc: tuple[int | str, ...]) -> tuple[str, int]:
    """Dotted key and line number of a pydantic error location, as deep as the YAML goes."""
    node, line, named = tree, tree.start_mark.line + 1, []
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found:
                line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
        named.append(str(part))
    return ".".join(named), line


def _no_repeated_keys(node: yaml.Node, path: Path, checked: set[yaml.Node]) -> None:
    """Raise BadInput for a key that stands twice. A node is checked once: aliases of aliases can name one a billion times."""
    if node in checked:
        return
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise BadInput("the key stands twice", file=path, line=key.start_mark.line + 1, key=key.value)
            seen.add(key.value)
            children.append(value)
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    for child in children:
        _no_repeated_keys(child, path, checked)
    checked.add(node)
