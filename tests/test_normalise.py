"""Values to declared types: numbers, text, sentinels, ids, companions, bands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmu_pipeline.catalog import Form, Survey
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Field
from mmu_pipeline.readers import identity, normalise, ragged


def field(dtype: str, **keys: Any) -> Field:
    return Field.model_validate({"name": "value", "dtype": dtype, **keys})


def form(**keys: Any) -> Form:
    return Form.model_validate({"reader": "mmu_v1", "files": ["*"], **keys})


@pytest.mark.parametrize(
    ("declared", "values", "expected"),
    [
        (field("float32", sentinels=[-99]), np.array([1.5, -99, np.nan, np.inf]), [1.5, None, None, None]),
        (field("float32", sentinels=[-9.99]), np.array([-9.99, 1], ">f4"), [None, 1.0]),
        (field("int32", sentinels=[888]), np.array([1, 888], ">i8"), [1, None]),
        (field("int32"), np.array([3.0, np.nan]), [3, None]),
        (field("int64"), np.array([2**62 + 1]), [2**62 + 1]),
        (field("bool"), np.array([0, 1], "u1"), [False, True]),
        (field("float64", sentinels=["NA"]), np.array(["1.25", "NA", "", " 2e1 "], object), [1.25, None, None, 20.0]),
        (field("int32"), np.array([b"0x10", b"7"]), [16, 7]),
        (field("string", sentinels=["?"]), np.array([b"SN Ia ", b"?", b""]), ["SN Ia", None, None]),
        (field("string"), np.array([266.0, 1.5]), ["266", "1.5"]),
        (field("float64", shape=[2], column=True, sentinels=[99]), np.array([[1, 99], [2, 3]]), [[1, None], [2, 3]]),
    ],
)
def test_a_column_has_the_declared_type_and_nulls(declared: Field, values: Any, expected: list[Any]) -> None:
    found = normalise.column(declared, "v1", values)
    assert found.to_pylist() == expected
    assert found.type.equals(declared.arrow_type)


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        (field("int8"), np.array([128])),
        (field("uint8"), np.array([-1])),
        (field("int32"), np.array([0.5])),
        (field("bool"), np.array([2])),
        (field("float32"), np.array([b"one"])),
        (field("float32"), np.array([1j])),
        (field("float32", shape=[2], column=True), np.zeros((1, 3))),
        (field("string"), np.array([b"\xff"])),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_the_name_of_its_column(declared: Field, values: Any) -> None:
    with pytest.raises(BrokenSource) as caught:
        normalise.column(declared, "v1", values)
    assert caught.value.where["column"] == "value"


def test_an_offset_moves_values_and_not_sentinels() -> None:
    declared = field("float64", offset={"v1": 53000}, sentinels=[-1])
    assert normalise.column(declared, "v1", np.array([249.5, -1], "f4")).to_pylist() == [53249.5, None]
    assert normalise.column(declared, "other", np.array([249.5])).to_pylist() == [249.5]


@given(st.integers(0, 2**63 - 1))
def test_integer_ids_keep_every_digit(value: int) -> None:
    assert identity.object_ids(form(), {"object_id": np.array([value], ">i8")}) == [str(value)]


@pytest.mark.parametrize(
    ("template", "prefix", "sources", "expected"),
    [
        ("object_id", "", {"object_id": np.array([b"  000010"])}, "000010"),
        ("object_id", "", {"object_id": np.array([411161765.0], ">f4")}, "411161760"),
        ("object_id", "", {"object_id": np.array([411161765.0])}, "411161765"),
        ("object_id", "", {"object_id": np.array(["b'    46'"], object)}, "46"),
        ("object_id", "", {"object_id": np.array(['b"it\'s"'], object)}, "it's"),
        ("object_id", "SN", {"object_id": np.array([b"SN2004dt"])}, "2004dt"),
        ("{SNID:06d}", "", {"SNID": np.array(10)[np.newaxis]}, "000010"),
        ("{SNID:06d}", "", {"SNID": np.array([10.0])}, "000010"),
        ("{plate}-{mjd}", "", {"plate": np.array([b"0266"]), "mjd": np.array([51602])}, "0266-51602"),
        ("{SNID}", "", {"SNID": np.array([np.nan])}, ""),
        ("object_id", "", {"object_id": np.array([np.nan])}, ""),
    ],
)
def test_ids_are_rebuilt_as_the_survey_writes_them(template: str, prefix: str, sources: Any, expected: str) -> None:
    declared = form(object_id=template, id_prefix=prefix or ())
    assert identity.id_sources(declared) == tuple(sources)
    assert identity.object_ids(declared, sources) == [expected]


def test_an_id_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(BrokenSource, match="no id can be made"):
        identity.object_ids(form(object_id="{SNID:06d}"), {"SNID": np.array([b"03D1au"])})


def test_masks_are_true_where_good_whatever_the_source_says() -> None:
    bits = np.array([0, 4, 65536], ">i4")
    assert normalise.member(field("bool", true_means="bad", shape=["n"]), "v1", bits).tolist() == [True, False, False]
    flags = np.array([1, 0], "u1")
    assert normalise.member(field("bool", true_means="good", shape=["n"]), "v1", flags).tolist() == [True, False]


def test_a_sentinel_in_a_member_goes_the_way_of_its_mask() -> None:
    survey = Survey.model_validate(
        {
            "name": "s", "title": "t", "modality": "spectrum", "release": "r", "summary": "s", "licence": "l", "citation": "c",
            "forms": {"v1": {"reader": "mmu_v1", "files": ["*"]}},
            "fields": [
                {"name": "flux", "dtype": "float32", "shape": [4], "sentinels": [-999], "ivar": "ivar", "mask": "mask"},
                {"name": "ivar", "dtype": "float32", "shape": [4]},
                {"name": "mask", "dtype": "bool", "shape": [4], "true_means": "good"},
            ],
        }
    )  # fmt: skip
    flux = normalise.member(survey.field("flux"), "v1", np.array([[1, -999, 3, 4]], ">f4"))
    mask = np.array([[True, True, False, True]])
    found = normalise.reconcile(survey, {"flux": flux, "ivar": np.array([[1, 1, 1, np.nan]], "f4"), "mask": mask})
    assert found["flux"].tolist() == [[1, 0, 3, 4]]
    assert found["ivar"].tolist() == [[1, 0, 0, 0]]
    assert found["mask"].tolist() == [[True, False, False, False]]
    assert mask.tolist() == [[True, True, False, True]]


def test_bands_are_indices_into_the_declared_order() -> None:
    declared = field("int8", shape=["n"], bands=["u", "V0"], band_aliases={"m": "V0"})
    codes = ragged.band_codes(declared, ["m", "u", "V0"])
    assert (codes.dtype, codes.tolist()) == (np.int8, [1, 0, 1])
    assert ragged.band_codes(declared, []).tolist() == []
    with pytest.raises(BrokenSource, match="unknown band"):
        ragged.band_codes(declared, ["u", "M"])


def test_values_are_converted_by_scale_power_and_offset_where_a_form_says_so() -> None:
    sigma = field("float64", shape=["n"], power={"v1": -2}, scale={"v1": 1e-34})
    np.testing.assert_allclose(normalise.member(sigma, "v1", np.array([[2e-18, 1e-17, 0]], "f4")), [[25, 1, np.inf]], rtol=1e-6)
    assert normalise.member(sigma, "other", np.array([[2.0]])).tolist() == [[2.0]]
    upside_down = field("int64", scale={"v1": -1}, offset={"v1": 1})
    assert normalise.column(upside_down, "v1", np.array([True, False])).to_pylist() == [0, 1]
    assert normalise.column(upside_down, "v1", np.array([1.0, np.nan])).to_pylist() == [0, None]
    assert normalise.column(upside_down, "other", np.array([4, 0])).to_pylist() == [4, 0]


@given(st.integers(0, 8574), st.integers(1, 60))
def test_rounded_logarithms_are_put_back_on_their_grid(first: int, count: int) -> None:
    declared = field("float64", shape=["n"], log_grid={"v1": (4.179, 6e-6)})
    exact = 4.179 + 6e-6 * (first + np.arange(count))
    padded = np.append(10 ** exact.astype("f4").astype("f8"), -1)[np.newaxis]
    found = normalise.member(declared, "v1", padded)[0]
    np.testing.assert_allclose(found[:-1], 10**exact, rtol=1e-14)
    assert found[-1] == -1
    with pytest.raises(BrokenSource, match="not on the declared grid"):
        normalise.member(declared, "v1", 10 ** (exact[np.newaxis] + 2.5e-6))


@given(
    st.lists(st.tuples(st.floats(0.03, 0.08), st.integers(2, 300)), min_size=1, max_size=4),
    st.integers(0, 5),
    st.sampled_from([-1.0, 2.0]),
)
def test_pixel_shifts_are_undone_window_by_window(windows: list[tuple[float, int]], padding: int, shift: float) -> None:
    pieces = [4000 + 600 * number + step * np.arange(count) for number, (step, count) in enumerate(windows)]
    steps = np.concatenate([np.full(count, step) for step, count in windows])
    true = np.concatenate(pieces)
    source = np.append(true + shift * steps, np.full(padding, -1.0))[np.newaxis]
    found = normalise.member(field("float64", shape=["n"], pixel_shift={"v1": shift}), "v1", source)[0]
    np.testing.assert_allclose(found[: len(true)], true, rtol=1e-12)
    assert (found[len(true) :] == -1).all()


def test_a_pixel_of_no_weight_is_masked_unless_one_mask_serves_several_bands() -> None:
    def survey(shape: list[int]) -> Survey:
        fields = [
            {"name": "flux", "dtype": "float32", "shape": [2, 2], "ivar": "ivar", "mask": "mask"},
            {"name": "ivar", "dtype": "float32", "shape": [2, 2]},
            {"name": "mask", "dtype": "bool", "shape": shape, "true_means": "good"},
        ]
        about = dict.fromkeys(("title", "release", "summary", "licence", "citation"), "t")
        form = {"v1": {"reader": "mmu_v1", "files": ["*"]}}
        return Survey.model_validate({"name": "s", "modality": "image", "forms": form, "fields": fields, **about})

    flux, ivar = np.ones((1, 2, 2), "f4"), np.array([[[0, 1], [1, 1]]], "f4")
    own = normalise.reconcile(survey([2, 2]), {"flux": flux, "ivar": ivar, "mask": np.ones((1, 2, 2), bool)})
    assert own["mask"].tolist() == [[[False, True], [True, True]]]
    shared = normalise.reconcile(survey([2]), {"flux": flux, "ivar": ivar, "mask": np.ones((1, 2), bool)})
    assert shared["mask"].tolist() == [[True, True]]
    assert shared["ivar"].tolist() == ivar.tolist()


def test_what_a_form_writes_after_an_id_is_removed() -> None:
    form = Form(reader="hats", files=("*",), id_suffix=".0")
    assert identity.object_ids(form, {"object_id": np.array(["411161765.0", "12"])}) == ["411161765", "12"]
