"""`where` texts: what passes, and what is refused without being run."""

from __future__ import annotations

import pyarrow as pa
import pytest

from mmu_pipeline.errors import BadInput
from mmu_pipeline.expressions import columns_of, parse_where, select

TABLE = pa.table(
    {"mag": [20.0, 22.5, None, 23.0], "kind": ["star", "qso", "star", None], "n": [1, 2, 3, 4], "good": [True, False, True, True]}
)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("mag < 22", [1]),
        ("mag < 22 or kind == 'qso'", [1, 2]),
        ("20 <= mag < 23", [1, 2]),
        ("not (mag > 22)", [1]),
        ("kind in ['star', 'qso'] and good", [1, 3]),
        ("kind not in ('star',)", [2, 4]),
        ("mag is None", [3]),
        ("mag is not None and n * 2 - 1 >= 3", [2, 4]),
        ("-mag < -22.9", [4]),
        ("n / 2 > 1", [4]),
        ("good", [1, 3, 4]),
    ],
)
def test_rows_that_pass(where: str, rows: list[int]) -> None:
    assert select(TABLE, where)["n"].to_pylist() == rows


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').system('true')",
        "mag.real > 1",
        "[x for x in (1,)]",
        "lambda: 1",
        "mag if good else n",
        "open('x')",
        "mag[0] > 1",
        "f'{mag}' == '1'",
        "mag <",
        "nosuch > 1",
        "mag is 3",
        "mag in kind",
        "kind in [mag]",
        "kind in [-'a']",
        "n < 123456789012345678901234567890",
        "n in [123456789012345678901234567890]",
        "not " * 5000 + "good",
    ],
)
def test_what_is_not_a_plain_expression_is_refused(where: str) -> None:
    with pytest.raises(BadInput):
        select(TABLE, where)


def test_types_that_do_not_fit_are_told() -> None:
    with pytest.raises(BadInput, match="types of its columns"):
        select(TABLE, "kind < 3")


def test_columns_that_a_text_reads() -> None:
    assert columns_of("a < 1 and not b in [2]") == {"a", "b"}
    assert columns_of(None) == set()


@pytest.mark.parametrize(("text", "at"), [("z <", "its end"), ("z 3", "character 3")])
def test_what_cannot_be_parsed_is_told_with_its_place(text: str, at: str) -> None:
    with pytest.raises(BadInput, match="cannot parse") as caught:
        parse_where(text, {"z"})
    assert caught.value.where["at"] == at
