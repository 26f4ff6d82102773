"""Options of `mmu reshard` as they are typed -> a rule. What is wrong with one is said with the option's name."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from mmu_pipeline import words
from mmu_pipeline.errors import BadInput
from mmu_pipeline.shards.reshape import ReshardRule


def rule_of(options: dict[str, Any]) -> ReshardRule:
    """The rule that some options ask for; those that are None are left out. Raises BadInput.

    `cone` and `members` are values with commas between them, `split` KEY=VALUE pairs, `limit_per_class` COLUMN=N.
    """
    asked = {name: value for name, value in options.items() if value is not None}
    if "cone" in asked:
        asked["cone"] = tuple(words.numbers("--cone", asked["cone"], float, 3))
    if "members" in asked:
        asked["members"] = tuple(asked["members"].split(","))
    if "split" in asked:
        asked["split"] = dict(_pair("split", part) for part in asked["split"].split(","))
    if "limit_per_class" in asked:
        asked["limit_per_class"] = _pair("limit_per_class", asked["limit_per_class"])
    try:
        return ReshardRule.model_validate(asked)
    except ValidationError as error:
        problem = error.errors()[0]
        name, *inside = map(str, problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        raise BadInput(f"{_option(name)}: {message}", given=options.get(name), key=".".join(inside) or None) from error


def _pair(name: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise BadInput(f"{_option(name)} wants KEY=VALUE, not {text!r}")
    return key.strip(), value.strip()


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
