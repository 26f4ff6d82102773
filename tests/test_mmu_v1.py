"""MMU v1 HDF5: the real supernova files, and generated files of every layout and of many faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmu_pipeline.catalog import Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import Skipped, hdf5, mmu_v1, snana

SURVEYS = load_surveys()
Arrays = Mapping[str, Any]


def everything(survey: Survey, form: str, path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Row and arrays of each object of a file."""
    module = {"snana": snana, "mmu_v1": mmu_v1}[survey.forms[form].reader]
    table = module.read_objects(survey, form, path).table
    rows = table["source_row"].to_numpy()
    members = [field for field in survey.members if field.source_names(form)]
    arrays = module.read_arrays(survey, form, path, rows, table["object_id"].to_pylist(), members)
    for at, row in enumerate(table.to_pylist()):
        yield row, {name: values[at] for name, values in arrays.items()}


# The real files


@pytest.mark.parametrize(("name", "count"), [("ps1_sne_ia", 369), ("snls", 239)])
def test_both_forms_give_the_same_objects_and_light_curves(name: str, count: int, real_data: Path) -> None:
    survey = SURVEYS[name]

    def objects(form: str, folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        paths = [path for pattern in survey.forms[form].files for path in folder.glob(pattern)]
        return {row["object_id"]: (row, arrays) for path in paths for row, arrays in everything(survey, form, path)}

    text, cells = objects("snana", real_data / "raw" / name), objects("mmu_v1", real_data / "mmu_v1" / name)
    assert len(cells) == count
    assert set(text) - set(cells) == ({"340242"} if name == "ps1_sne_ia" else set())
    for object_id, (row, arrays) in cells.items():
        expected_row, expected = text[object_id]
        assert arrays["time"].dtype == "<f8"
        np.testing.assert_array_equal(arrays["time"], expected["time"].astype(np.float32))
        for member in survey.members[1:]:
            np.testing.assert_array_equal(arrays[member.name], expected[member.name], member.name)
        for column in ("ra", "dec", "redshift", "redshift_helio", "host_log_mass", "mw_ebv", "peak_mjd"):
            both = (row[column], expected_row[column])
            assert both == (None, None) or np.float32(both[0]) == np.float32(both[1]), (object_id, column)


def test_the_real_csp_file_agrees_with_its_text_form(real_data: Path) -> None:
    survey = SURVEYS["csp"]
    path = real_data / "mmu_v1/cfa_csp_samples/csp/example_SN2004dt.hdf5"
    ((row, arrays),) = everything(survey, "mmu_v1", path)
    ((expected_row, expected),) = everything(survey, "snana", real_data / "raw/csp/CSPDR3_2004dt.DAT")
    assert row["object_id"] == expected_row["object_id"] == "2004dt"
    np.testing.assert_array_equal(arrays["band"], expected["band"])
    np.testing.assert_allclose(arrays["time"], expected["time"], atol=1e-4)
    np.testing.assert_array_equal(arrays["mag"], expected["mag"])
    with pytest.raises(BrokenSource, match="does not carry"):
        mmu_v1.read_arrays(survey, "mmu_v1", path, np.array([0]), ["2004dt"], [survey.field("flux")])


def test_the_real_cfa_file_loses_its_zeros(real_data: Path) -> None:
    ((row, arrays),) = everything(SURVEYS["cfa3_standard"], "mmu_v1", real_data / "mmu_v1/cfa_csp_samples/cfa/SN2007bc.hdf5")
    assert (row["object_id"], row["sn_type"]) == ("2007bc", None)
    assert set(arrays["band"].tolist()) == {1, 2, 5, 6}
    assert arrays["time"].min() > 54000
    assert arrays["mag"].min() > 15


# Tables of one cell

COUNT = 12
SIZE = (3, 4, 5)


def cell_survey(**changes: Any) -> Survey:
    """A survey with every kind of field, in a table per cell."""
    model: dict[str, Any] = {
        "name": "cell", "title": "t", "modality": "image", "release": "r", "summary": "s", "licence": "l", "citation": "c",
        "forms": {"v1": {"reader": "mmu_v1", "files": ["*.hdf5"], "padding": {"field": "wavelength", "value": -1}}},
        "fields": [
            {"name": "image", "dtype": "float32", "shape": SIZE, "from": "image_array", "ivar": "weight", "mask": "image_mask"},
            {"name": "weight", "dtype": "float32", "shape": SIZE, "from": "image_ivar"},
            {"name": "image_mask", "dtype": "bool", "shape": SIZE[1:], "true_means": "good"},
            {"name": "wavelength", "dtype": "float32", "shape": ["pixel"], "from": "spectrum_lambda"},
            {"name": "flux", "dtype": "float32", "shape": ["pixel"], "ivar": "ivar", "mask": "mask"},
            {"name": "ivar", "dtype": "float32", "shape": ["pixel"]},
            {"name": "mask", "dtype": "bool", "shape": ["pixel"], "true_means": "bad"},
            {"name": "z", "dtype": "float32", "from": "Z", "sentinels": [-6]},
            {"name": "z_err", "dtype": "float32", "from": "Z_ERR", "error_of": "z"},
            {"name": "flags", "dtype": "int32"},
            {"name": "mags", "dtype": "float32", "shape": [2], "column": True, "sentinels": [99]},
            {"name": "kind", "dtype": "string", "from": "CLASS", "sentinels": ["?"]},
        ],
    }  # fmt: skip
    return Survey.model_validate({**model, **changes})


def cell_arrays(seed: int = 0) -> dict[str, Any]:
    """What a cell holds, as the source has it."""
    rng = np.random.default_rng(seed)
    length = 7
    wavelength = np.full((COUNT, length), -1, "f4")
    for row, stop in zip(wavelength, rng.integers(1, length + 1, COUNT), strict=True):
        row[:stop] = np.arange(stop) + 4000
    return {
        "object_id": np.arange(COUNT, dtype=np.int64) + 36_407_052_668_990_000,
        "RA": rng.uniform(0, 360, COUNT),
        "DEC": rng.uniform(-90, 90, COUNT),
        "image_array": rng.normal(size=(COUNT, *SIZE)).astype("f4"),
        "image_ivar": rng.uniform(1, 2, (COUNT, *SIZE)).astype("f4"),
        "image_mask": np.ones((COUNT, *SIZE[1:]), bool),
        "spectrum_lambda": wavelength,
        "flux": rng.normal(size=(COUNT, length)).astype("f4"),
        "ivar": rng.uniform(1, 2, (COUNT, length)).astype("f4"),
        "mask": wavelength == -1,
        "Z": rng.uniform(0, 1, COUNT).astype("f4"),
        "Z_ERR": np.full(COUNT, 0.01, "f4"),
        "flags": np.arange(COUNT, dtype="i4"),
        "mags": np.full((COUNT, 2), 20.5, "f4"),
        "CLASS": np.array([b"STAR  ", b"GALAXY"] * (COUNT // 2)),
    }


def write(path: Path, arrays: Arrays, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            array = np.asarray(values)
            file.create_dataset(name, data=values, **(options if array.ndim > 1 else {}))
    return path


def read(path: Path, rows: list[int], ids: list[str] | None = None, survey: Survey | None = None) -> dict[str, Any]:
    survey = survey or cell_survey()
    found = [str(36_407_052_668_990_000 + row) for row in rows] if ids is None else ids
    return dict(mmu_v1.read_arrays(survey, "v1", path, np.array(rows, np.int64), found, survey.members))


def test_a_table_gives_its_columns_whatever_the_case_of_their_names(tmp_path: Path) -> None:
    arrays = cell_arrays()
    arrays["Z"][3], arrays["Z"][4], arrays["mags"][5, 1] = -6, np.nan, 99
    arrays["CLASS"][0] = b"?"
    found = mmu_v1.read_objects(cell_survey(), "v1", write(tmp_path / "a.hdf5", arrays))
    table = found.table
    assert found.skipped == ()
    assert table["object_id"].to_pylist() == [str(value) for value in arrays["object_id"]]
    np.testing.assert_array_equal(table["ra"].to_numpy(), arrays["RA"])
    np.testing.assert_array_equal(table["dec"].to_numpy(), arrays["DEC"])
    assert table["source_row"].to_pylist() == list(range(COUNT))
    assert [row for row, value in enumerate(table["z"].to_pylist()) if value is None] == [3, 4]
    assert [row for row, value in enumerate(table["z_err"].to_pylist()) if value is None] == [3, 4]
    assert table["mags"].to_pylist()[4:6] == [[20.5, 20.5], [20.5, None]]
    assert table["kind"].to_pylist()[:3] == [None, "GALAXY", "STAR"]
    assert [str(table.schema.field(field.name).type) for field in cell_survey().columns] == [
        str(field.arrow_type) for field in cell_survey().columns
    ]


def test_positions_are_given_as_they_are(tmp_path: Path) -> None:
    arrays = cell_arrays()
    arrays["RA"][2], arrays["DEC"][3] = np.nan, 123
    table = mmu_v1.read_objects(cell_survey(), "v1", write(tmp_path / "a.hdf5", arrays)).table
    assert np.isnan(table["ra"][2].as_py())
    assert table["dec"][3].as_py() == 123


def test_arrays_lose_their_padding_and_masks_are_true_where_good(tmp_path: Path) -> None:
    arrays = cell_arrays()
    found = read(write(tmp_path / "a.hdf5", arrays), [5, 0])
    for at, row in enumerate([5, 0]):
        good = arrays["spectrum_lambda"][row] != -1
        np.testing.assert_array_equal(found["wavelength"][at], arrays["spectrum_lambda"][row][good])
        np.testing.assert_array_equal(found["flux"][at], arrays["flux"][row][good])
        assert found["mask"][at].tolist() == [True] * good.sum()
        np.testing.assert_array_equal(found["image"][at], arrays["image_array"][row])


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"chunks": True, "compression": "lzf", "shuffle": True}])
def test_big_endian_and_compressed_data_come_back_native(tmp_path: Path, options: dict[str, Any]) -> None:
    arrays = cell_arrays()
    swapped = {name: values.astype(values.dtype.newbyteorder(">")) for name, values in arrays.items()}
    path = write(tmp_path / "a.hdf5", swapped, **options)
    found, expected = read(path, [7, 1, 7]), read(write(tmp_path / "b.hdf5", arrays), [7, 1, 7])
    for field in cell_survey().members:
        for one, other in zip(found[field.name], expected[field.name], strict=True):
            assert one.dtype == field.numpy_dtype
            np.testing.assert_array_equal(one, other)
    left, right = (mmu_v1.read_objects(cell_survey(), "v1", tmp_path / name).table for name in ("a.hdf5", "b.hdf5"))
    assert left.equals(right)


def test_pixels_that_are_no_data_have_ivar_0_and_mask_false(tmp_path: Path) -> None:
    arrays = cell_arrays()
    arrays["image_array"][0, 0, 0, 0] = np.nan
    arrays["image_ivar"][0, 1, 1, 1] = 3.4028e38
    arrays["image_ivar"][0, 2, 2, 2] = np.inf
    arrays["image_ivar"][0, 0, 3, 3] = -1
    arrays["image_mask"][0, 3, 4] = False
    found = read(write(tmp_path / "a.hdf5", arrays), [0])
    (image,), (weight,), (mask,) = found["image"], found["weight"], found["image_mask"]
    assert image[0, 0, 0] == 0
    assert np.isfinite(image).all()
    assert sorted(map(tuple, np.argwhere(~mask).tolist())) == [(0, 0), (1, 1), (2, 2), (3, 3), (3, 4)]
    assert (weight[:, ~mask] == 0).all()
    assert (weight[:, mask] > 0).all()
    alone = mmu_v1.read_arrays(
        cell_survey(), "v1", tmp_path / "a.hdf5", np.array([0]), ["36407052668990000"], [cell_survey().field("image_mask")]
    )
    np.testing.assert_array_equal(alone["image_mask"][0], mask)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.arange(COUNT, dtype=np.int64) + 411161765, [str(411161765 + row) for row in range(COUNT)]),
        (np.arange(COUNT, dtype=np.float64) + 411161765, [str(411161765 + row) for row in range(COUNT)]),
        (np.array([f"{row:06d}".encode() for row in range(COUNT)]), [f"{row:06d}" for row in range(COUNT)]),
        (np.array([f"{row:>22}".encode() for row in range(COUNT)]), [str(row) for row in range(COUNT)]),
        (np.array([f"b'  {row:04d}'".encode() for row in range(COUNT)]), [f"{row:04d}" for row in range(COUNT)]),
        ([f"SDSS J{row}" for row in range(COUNT)], [f"SDSS J{row}" for row in range(COUNT)]),
    ],
    ids=["int", "float", "zeros", "blanks", "repr", "vlen"],
)
def test_ids_are_text_as_the_survey_writes_them(tmp_path: Path, stored: Any, expected: list[str]) -> None:
    path = write(tmp_path / "a.hdf5", {**cell_arrays(), "object_id": stored})
    assert mmu_v1.read_objects(cell_survey(), "v1", path).table["object_id"].to_pylist() == expected
    assert len(read(path, [4, 2], [expected[4], expected[2]])["flux"]) == 2


def test_an_id_can_be_made_of_several_columns(tmp_path: Path) -> None:
    form = {
        "reader": "mmu_v1",
        "files": ["*"],
        "object_id": "{plate:04d}-{fiber}",
        "padding": {"field": "wavelength", "value": -1},
    }
    arrays = {**cell_arrays(), "plate": np.full(COUNT, 266, ">i4"), "fiber": np.array([b"7 "] * COUNT)}
    path = write(tmp_path / "a.hdf5", arrays)
    assert mmu_v1.read_objects(cell_survey(forms={"v1": form}), "v1", path).table["object_id"][0].as_py() == "0266-7"


def test_a_row_without_an_id_is_skipped(tmp_path: Path) -> None:
    ids = np.arange(COUNT, dtype="f8")
    ids[3] = np.nan
    found = mmu_v1.read_objects(cell_survey(), "v1", write(tmp_path / "a.hdf5", {**cell_arrays(), "object_id": ids}))
    assert found.skipped == (Skipped(3, "", "no object id"),)
    assert found.table["source_row"].to_pylist() == [row for row in range(COUNT) if row != 3]


def test_each_row_is_checked_by_its_id(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", cell_arrays())
    with pytest.raises(BrokenSource, match="another object") as caught:
        read(path, [3, 4], ["36407052668990003", "17"])
    assert caught.value.where == {"file": path, "row": 4, "object_id": "36407052668990004", "expected": "17"}


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same cell contiguous, and in chunks of five rows."""
    folder = tmp_path_factory.mktemp("cells")
    arrays = cell_arrays()
    plain = write(folder / "plain.hdf5", arrays)
    with h5py.File(folder / "chunked.hdf5", "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, chunks=(5, *values.shape[1:]), compression="gzip")
    return plain, folder / "chunked.hdf5"


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(st.integers(0, COUNT - 1), max_size=25), slab=st.sampled_from([1, 200, hdf5.SLAB_BYTES]))
def test_any_rows_in_any_order_with_repeats_equal_direct_indexing(chunked: tuple[Path, Path], rows: list[int], slab: int) -> None:
    arrays = cell_arrays()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5, "SLAB_BYTES", slab)
        for path in chunked:
            found = read(path, rows)
            for at, row in enumerate(rows):
                kept = arrays["spectrum_lambda"][row] != -1
                np.testing.assert_array_equal(found["image"][at], arrays["image_array"][row])
                np.testing.assert_array_equal(found["flux"][at], arrays["flux"][row][kept])
            assert {len(values) for values in found.values()} == {len(rows)}


# Files of one object


def curve_survey(value: float = -99) -> Survey:
    form = {"reader": "mmu_v1", "files": ["*"], "padding": {"field": "time", "value": value}}
    bands = {"bands": ["u", "g", "r"], "band_aliases": {"G": "g"}}
    fields = [
        {"name": "time", "dtype": "float64", "shape": ["observation"], "unit": "d"},
        {"name": "band", "dtype": "int8", "shape": ["observation"], "from": "bands", **bands},
        {"name": "flux", "dtype": "float32", "shape": ["observation"]},
        {"name": "redshift", "dtype": "float64"},
    ]
    return cell_survey(modality="light_curve", order_by=["time"], forms={"v1": form}, fields=fields)


def curve_arrays(pad: float, bands: Any) -> dict[str, Any]:
    return {
        "object_id": np.bytes_("007"),
        "ra": np.float32(10.5),
        "dec": np.float32(-3),
        "redshift": np.int64(0),
        "bands": bands,
        "time": np.array([[5, 2, pad], [pad, pad, pad], [1, 3, 4]], "f4"),
        "flux": np.array([[50, 20, 0], [0, 0, 0], [10, 0, 40]], "f4"),
    }


@pytest.mark.parametrize("pad", [-99, 0])
@pytest.mark.parametrize("bands", ["G,u,r", np.array([b"G", b"u", b"r"])], ids=["joined", "bytes"])
def test_a_light_curve_is_flattened_over_bands_and_sorted(tmp_path: Path, pad: float, bands: Any) -> None:
    path, survey = write(tmp_path / "a.hdf5", curve_arrays(pad, bands)), curve_survey(pad)
    (row,) = mmu_v1.read_objects(survey, "v1", path).table.to_pylist()
    assert (row["object_id"], row["ra"], row["source_row"], row["redshift"]) == ("007", 10.5, 0, 0.0)
    found = read(path, [0, 0], ["007", "007"], survey)
    for at in range(2):
        assert found["time"][at].tolist() == [1, 2, 3, 4, 5]
        assert found["band"][at].tolist() == [2, 1, 2, 2, 1]
        assert found["flux"][at].tolist() == [10, 20, 0, 40, 50]
    only = mmu_v1.read_arrays(survey, "v1", path, np.array([0]), ["007"], [survey.field("flux")])
    assert only["flux"][0].tolist() == [10, 20, 0, 40, 50]


def test_a_light_curve_can_name_the_band_of_each_observation(tmp_path: Path) -> None:
    arrays = {
        "object_id": np.array([b"a", b"b"]), "ra": np.zeros(2), "dec": np.zeros(2), "redshift": np.zeros(2),
        "time": np.array([[2, 1], [7, -99]], "f4"), "flux": np.array([[20, 10], [70, 0]], "f4"),
        "bands": np.array([[b"r", b"u"], [b"g", b""]]),
    }  # fmt: skip
    found = read(write(tmp_path / "a.hdf5", arrays), [1, 0], ["b", "a"], curve_survey())
    assert [values.tolist() for values in found["band"]] == [[1], [0, 2]]
    assert [values.tolist() for values in found["flux"]] == [[70], [10, 20]]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"bands": "G,u"}, ["not one band per curve", "column: band"]),
        ({"bands": "G,u,x"}, ["unknown band", "'x'", "column: band"]),
        ({"flux": np.zeros((3, 2), "f4")}, ["not as long as the others", "column: flux"]),
        ({"flux": np.zeros(3, "f4")}, ["not as long as the others", "column: flux"]),
    ],
)
def test_a_light_curve_whose_parts_do_not_agree_is_named(tmp_path: Path, change: Arrays, names: list[str]) -> None:
    path = write(tmp_path / "a.hdf5", {**curve_arrays(-99, "G,u,r"), **change})
    with pytest.raises(BrokenSource) as caught:
        read(path, [0], ["007"], curve_survey())
    for name in [str(path), *names]:
        assert name in str(caught.value)


def test_a_file_of_one_object_has_one_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", curve_arrays(-99, "G,u,r"))
    with pytest.raises(BrokenSource, match="no such row"):
        read(path, [1], ["007"], curve_survey())


# Broken and hostile files


def drop(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[name]

    return change


def put(name: str, values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[name]
            file[name] = values

    return change


def outside(path: Path) -> None:
    """flux becomes a dataset whose bytes lie in another file."""
    (path.parent / "other.raw").write_bytes(bytes(COUNT * 7 * 4))
    with h5py.File(path, "a") as file:
        del file["flux"]
        file.create_dataset("flux", (COUNT, 7), "f4", external=[(path.parent / "other.raw", 0, COUNT * 28)])


def virtual(path: Path) -> None:
    layout = h5py.VirtualLayout((COUNT, 7), "f4")
    layout[:] = h5py.VirtualSource(path.parent / "other.hdf5", "flux", (COUNT, 7))
    with h5py.File(path, "a") as file:
        del file["flux"]
        file.create_virtual_dataset("flux", layout)


def plugin(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["flux"]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 7))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        h5py.h5d.create(file.id, b"flux", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((COUNT, 7)), plist)


def groups(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["flux"]
        file.create_group("flux")


def twice(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["FLUX"] = file["flux"][:]
        file["Flux"] = file["flux"][:]
        del file["flux"]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (drop("flux"), ["declared dataset is missing", "column: flux"]),
        (drop("spectrum_lambda"), ["declared dataset is missing", "column: wavelength", "spectrum_lambda"]),
        (put("flux", h5py.ExternalLink("other.hdf5", "/flux")), ["links and groups are refused", "column: flux"]),
        (put("flux", h5py.SoftLink("/ivar")), ["links and groups are refused", "column: flux"]),
        (outside, ["lie in another file", "column: flux"]),
        (virtual, ["lie in another file", "column: flux"]),
        (plugin, ["needs a plug-in", "column: flux", "32015"]),
        (groups, ["links and groups are refused", "column: flux"]),
        (twice, ["declared dataset is missing", "column: flux"]),
        (put("flux", np.zeros((COUNT, 7), "c8")), ["neither numbers nor text", "column: flux"]),
        (put("flux", np.full((COUNT, 7), b"x")), ["not numbers", "column: flux"]),
        (put("flux", np.zeros((COUNT, 6), "f4")), ["not as long as the others", "column: flux"]),
        (put("image_array", np.zeros((COUNT, 3, 4, 6), "f4")), ["not the declared shape", "column: image"]),
        (put("image_mask", np.full((COUNT, 4, 5), 7)), ["not a bool", "column: image_mask"]),
        (put("image_array", np.zeros((3, *SIZE), "f4")), ["no such row", "image_array"]),
        (put("image_array", np.float32(1)), ["one value where one per row", "column: image"]),
    ],
)
def test_a_broken_member_is_named_with_file_and_column(tmp_path: Path, change: Callable[[Path], None], names: list[str]) -> None:
    path = write(tmp_path / "a.hdf5", cell_arrays())
    change(path)
    with pytest.raises(BrokenSource) as caught:
        read(path, [4])
    for name in [str(path), *names]:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (drop("RA"), ["declared dataset is missing", "column: ra"]),
        (drop("object_id"), ["declared dataset is missing", "column: object_id"]),
        (drop("flags"), ["declared dataset is missing", "column: flags"]),
        (put("flags", np.full(COUNT, 1.5)), ["not a int32", "column: flags", "1.5"]),
        (put("flags", np.full(COUNT, 2**40)), ["not a int32", "column: flags"]),
        (put("Z", np.full(COUNT, b"SEARCH_PEAKMJD:")), ["not a number", "column: z", "SEARCH_PEAKMJD:"]),
        (put("Z", np.zeros(COUNT + 1)), ["not one value per id", "column: z"]),
        (put("mags", np.zeros((COUNT, 3))), ["not the declared shape", "column: mags"]),
        (put("CLASS", np.full(COUNT, b"\xff\xfe")), ["not UTF-8", "column: kind"]),
    ],
)
def test_a_broken_column_is_named_with_file_and_column(tmp_path: Path, change: Callable[[Path], None], names: list[str]) -> None:
    path = write(tmp_path / "a.hdf5", cell_arrays())
    change(path)
    with pytest.raises(BrokenSource) as caught:
        mmu_v1.read_objects(cell_survey(), "v1", path)
    for name in [str(path), *names]:
        assert name in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, 0.3, 0.6, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: float) -> None:
    path = write(tmp_path / "a.hdf5", cell_arrays(), compression="gzip")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(BrokenSource, match=r"not a readable HDF5 file[\s\S]*a.hdf5"):
        mmu_v1.read_objects(cell_survey(), "v1", path)


def test_damaged_bytes_give_an_error_or_other_values_but_no_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", cell_arrays(), compression="gzip", fletcher32=True)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(5)
    refused = 0
    for at in rng.integers(0, len(content), 60):
        damaged = content.copy()
        damaged[at : at + 8] = rng.bytes(8)
        path.write_bytes(damaged)
        try:
            mmu_v1.read_objects(cell_survey(), "v1", path)
            read(path, list(range(COUNT)))
        except BrokenSource:
            refused += 1
    assert refused > 20


def test_a_file_that_is_not_there_is_not_called_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mmu_v1.read_objects(cell_survey(), "v1", tmp_path / "none.hdf5")
