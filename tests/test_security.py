"""Files, URLs and manifests that mean harm: refused, bounded, or shown without their secrets."""

from __future__ import annotations

import ast
import bz2
import gzip
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from PIL import Image
from pyarrow import csv

from mmu_pipeline.catalog_files import load_recipe, load_surveys
from mmu_pipeline.errors import BadInput, BrokenSource, PipelineError, Unreachable
from mmu_pipeline.jpeg import pixels_of
from mmu_pipeline.loader import ShardDataset
from mmu_pipeline.readers import hdf5, hdf5_dataset
from mmu_pipeline.readers.bounded import check_columns, check_images, unpacked
from mmu_pipeline.receipt import Receipt, write_receipt
from mmu_pipeline.redaction import public_url, without_secrets
from mmu_pipeline.remote import check_scheme, filesystem
from mmu_pipeline.shards.opened import locate, read_manifest
from mmu_pipeline.simulate.serve import Busy, serving
from mmu_pipeline.stages.download import list_files
from mmu_pipeline.storage import Root
from tests.faults import HERE, drive, prepared, small_sky

SECRET = "s3cr3t-and-l0ng-enough"
KB = 1024


@pytest.mark.parametrize(
    "url",
    ["ftp://host/x", "zip://a.hdf5::https://host/x.zip", "simplecache::https://host/x", "ssh://host/x",
     "reference://x.json", "dask://host"],
)  # fmt: skip
def test_other_kinds_of_url_are_refused(url: str) -> None:
    with pytest.raises(BadInput, match="not allowed"):
        filesystem(url)


def test_every_place_that_the_catalog_names_may_be_read_and_is_shown_whole() -> None:
    places = [
        url for survey in load_surveys().values() for form in survey.forms.values() for url in (form.url, *form.mirrors) if url
    ]
    assert len(places) > 10
    for url in places:
        check_scheme(url)
        assert public_url(url) == url


def test_a_service_for_others_can_refuse_its_own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMU_SCHEMES", '["https", "s3"]')
    for url in (str(tmp_path), f"file://{tmp_path}", "memory://x", "http://host/x"):
        with pytest.raises(BadInput, match="not allowed"):
            check_scheme(url)
    check_scheme("https://host/x")
    sky = small_sky(tmp_path / "sky")
    with pytest.raises(BadInput, match="not allowed"):
        prepared(sky, "s3://bucket/root")


def _linked(kind: str, folder: Path) -> Path:
    """An HDF5 file whose dataset `x` leads to the file `secret.h5` in some way."""
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = np.arange(8.0)
        file.create_group("inside")["x"] = np.arange(8.0)
    path = folder / f"{kind}.h5"
    with h5py.File(path, "w") as file:
        if kind == "external link":
            file["x"] = h5py.ExternalLink("secret.h5", "/x")
        elif kind == "external group":
            file["group"] = h5py.ExternalLink("secret.h5", "/inside")
        elif kind == "soft link":
            file["y"] = np.arange(8.0)
            file["x"] = h5py.SoftLink("/y")
        elif kind == "external storage":
            file.create_dataset("x", (8,), "f8", external=[(str(folder / "secret.h5"), 0, 64)])
        else:
            layout = h5py.VirtualLayout((8,), "f8")
            layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (8,))
            file.create_virtual_dataset("x", layout)
    return path


@pytest.mark.parametrize("kind", ["external link", "external group", "soft link", "external storage", "virtual"])
def test_hdf5_data_that_lie_elsewhere_are_refused(kind: str, tmp_path: Path) -> None:
    name = "group/x" if kind == "external group" else "x"
    with hdf5.opened(_linked(kind, tmp_path)) as file, pytest.raises(BrokenSource, match=r"refused|missing"):
        hdf5_dataset.dataset(file, (name,), "x")


def test_hdf5_filters_that_load_a_plugin_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((8,))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # zstd, by a plug-in
        space = h5py.h5s.create_simple((8,))
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, space, plist)
    with hdf5.opened(tmp_path / "f.h5") as file, pytest.raises(BrokenSource, match="plug-in"):
        hdf5_dataset.dataset(file, ("x",), "x")


@pytest.mark.parametrize(("shape", "chunks"), [((4, 1024, 1024), (1, 16, 16)), ((2**20,), (2**20,))])
def test_hdf5_rows_and_chunks_that_claim_too_much_are_refused(
    shape: tuple[int, ...], chunks: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMU_MOST_ARRAY_BYTES", "1MiB")
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("x", shape, "f8", chunks=chunks, compression="gzip")
    assert (tmp_path / "bomb.h5").stat().st_size < 10 * KB
    with hdf5.opened(tmp_path / "bomb.h5") as file, pytest.raises(BrokenSource, match="larger than allowed"):
        hdf5_dataset.dataset(file, ("x",), "x")


def test_an_hdf5_dataset_that_would_not_fit_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMU_MOST_ARRAY_BYTES", "1MiB")
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("x", (2**40,), "f8", chunks=(1024,))
    with hdf5.opened(tmp_path / "bomb.h5") as file, pytest.raises(BrokenSource, match="a dataset is larger than allowed"):
        hdf5.whole(hdf5_dataset.dataset(file, ("x",), "x"))


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress])
def test_text_that_unpacks_beyond_the_limit_is_stopped(packed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMU_MOST_UNPACKED_BYTES", "1MiB")
    path = tmp_path / f"bomb.csv.{'gz' if packed is gzip.compress else 'bz2'}"
    path.write_bytes(packed(b"x\n" + b"0\n" * 2**20))
    assert path.stat().st_size < 10 * KB
    with pytest.raises(BrokenSource, match="unpacks to more than allowed"), unpacked(path) as stream:
        csv.read_csv(stream)
    monkeypatch.setenv("MMU_MOST_UNPACKED_BYTES", "4MiB")
    with unpacked(path) as stream:
        assert len(csv.read_csv(stream)) == 2**20


def test_fits_extensions_that_claim_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = fits.CompImageHDU(np.zeros((1024, 1024), np.float32), compression_type="RICE_1")
    image.writeto(tmp_path / "bomb.fits.fz")
    assert (tmp_path / "bomb.fits.fz").stat().st_size < 100 * KB
    with fits.open(tmp_path / "bomb.fits.fz") as hdus:
        check_images(hdus)
        monkeypatch.setenv("MMU_MOST_ARRAY_BYTES", "1MiB")
        with pytest.raises(BrokenSource, match="an extension is larger than allowed"):
            check_images(hdus)


def test_parquet_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMU_MOST_ARRAY_BYTES", "1MiB")
    pq.write_table(pa.table({"x": np.zeros(2**20), "y": np.zeros(2**20, np.int8)}), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 20 * KB
    with pytest.raises(BrokenSource, match="larger than allowed"):
        check_columns(pq.read_metadata(tmp_path / "bomb.parquet"), ["x"])


def test_parquet_lists_that_say_one_value_a_million_times_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMU_MOST_ARRAY_BYTES", "1MiB")
    pq.write_table(pa.table({"x": [np.zeros(2**20, np.float32)]}), tmp_path / "bomb.parquet")
    footer = pq.read_metadata(tmp_path / "bomb.parquet")
    assert footer.row_group(0).column(0).total_uncompressed_size < 20 * KB
    with pytest.raises(BrokenSource, match="larger than allowed"):
        check_columns(footer, ["x"])


def test_a_picture_of_too_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Image.new("L", (400, 400)).save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="decompression bomb"):
        pixels_of((tmp_path / "a.jpg").read_bytes())


@pytest.mark.parametrize("change", [{"name": "../../x.tar"}, {"name": "/etc/x.tar"}, {"digest": "../../../home/x"}])
def test_a_manifest_whose_names_lead_elsewhere_is_refused(change: dict[str, str], tmp_path: Path) -> None:
    shard = {"name": "train-000000.tar", "digest": "0" * 32}
    for content in (shard, {**shard, **change}):
        splits = {"train": {"samples": 1, "shards": [content]}}
        (tmp_path / "manifest.json").write_text(json.dumps({"format_version": _format(), "splits": splits}))
        if content == shard:
            assert read_manifest(Root(str(tmp_path)))["splits"] == splits
    with pytest.raises(BadInput, match="name or digest"):
        read_manifest(Root(str(tmp_path)))
    with pytest.raises(BadInput, match="name or digest"):
        ShardDataset(tmp_path)


def _format() -> Any:
    from mmu_pipeline.shards.manifest import FORMAT_VERSION

    return FORMAT_VERSION


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", ".hidden/../..", ""])
def test_the_name_of_the_latest_version_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "LATEST").write_text(name)
    with pytest.raises(BadInput, match="LATEST"):
        locate(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [f"GET https://me:{SECRET}@host/a?X-Amz-Signature={SECRET}&y=1#{SECRET} failed", f"token={SECRET}", f"Bearer {SECRET}",
     f"Authorization: Basic {SECRET}", f'{{"password": "{SECRET}"}}', f"s3://key:{SECRET}@bucket/a", f"sig={SECRET}",
     f"AWS_SECRET_ACCESS_KEY={SECRET}", f"aws_session_token: {SECRET}", f"Cookie: session={SECRET}"],
)  # fmt: skip
def test_secrets_are_hidden_in_any_text(text: str) -> None:
    assert SECRET not in without_secrets(text)
    assert SECRET not in str(PipelineError(text, file=text, hint=text, urls=[text], reason=ValueError(text)))


@pytest.mark.parametrize(
    "token", [f"hf_{'a1' * 17}", f"ghp_{'a1' * 18}", f"github_pat_{'a1' * 11}_{'B2' * 20}", "AKIA" + "X7" * 8]
)
def test_tokens_are_known_by_their_looks(token: str) -> None:
    assert without_secrets(f"refused: {token}!") == "refused: ***!"


def test_what_is_no_secret_stays() -> None:
    text = "hsc cell 1104: the column 'token_count' of /data/x.hdf5 is not declared; see https://host/a/b.hdf5"
    assert without_secrets(text) == text


def test_values_of_secret_variables_are_hidden_wherever_they_turn_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert without_secrets(f"signed with {SECRET}!") == "signed with ***!"


def test_no_secret_of_a_url_reaches_receipts_manifests_logs_or_errors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A presigned source: one file of it fails, the others are built and published."""
    caplog.set_level(logging.DEBUG, "mmu_pipeline")
    sky = small_sky(tmp_path / "sky")
    broken = sorted((sky / "one").rglob("*.hdf5"))[0].relative_to(sky)
    with serving(sky, {str(broken): Busy(10**6)}) as server:
        secret_url = server.url.replace("http://", f"http://me:{SECRET}@")
        sources = {name: f"{secret_url}/{name}" for name in ("one", "two")}
        published = drive(prepared(sky, tmp_path / "root", sources=sources, cache=str(tmp_path / "cache")))
        with pytest.raises((BadInput, Unreachable)) as caught:
            list_files(_form(), f"{secret_url}/nothing?X-Amz-Signature={SECRET}")
    assert len(published.set_aside) == 1
    said = [str(published), str(caught.value), caplog.text, *capsys.readouterr()]
    written = [path for place in ("root", "cache") for path in (tmp_path / place).rglob("*") if path.is_file()]
    assert len(written) > 20
    assert not [text for text in said if SECRET in text]
    assert not [path for path in written if SECRET.encode() in path.read_bytes() or SECRET in str(path)]


def _form() -> Any:
    from mmu_pipeline.catalog import Form

    return Form(reader="mmu_v1", files=("healpix=*/*.hdf5",))


def test_a_receipt_is_written_without_secrets(tmp_path: Path) -> None:
    written = write_receipt(Root(str(tmp_path)), Receipt("scan", "a/1", "f", status="set_aside", reason=f"token={SECRET}"))
    assert SECRET not in written.reason
    assert SECRET not in (tmp_path / written.path).read_text()


UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_ATTRIBUTES = {("yaml", "unsafe_load"), ("yaml", "full_load"), ("os", "system"), ("tarfile", "open")}


def modules() -> list[Path]:
    return [*(HERE / "mmu_pipeline").rglob("*.py"), *(HERE / "flows").rglob("*.py")]


def test_no_module_unpickles_evaluates_or_loads_yaml_unsafely() -> None:
    found = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            found += [(path.name, name) for name in names if name.split(".")[0] in UNSAFE_MODULES]
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
                    found.append((path.name, node.func.id))
                if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                    called = (node.func.value.id, node.func.attr)
                    found += [(path.name, ".".join(called))] if called in UNSAFE_ATTRIBUTES else []
                found += [
                    (path.name, "allow_pickle")
                    for word in node.keywords
                    if word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
                ]
        if re.search(r"yaml\.(Unsafe|Full|C)?Loader\b|yaml\.(Unsafe|Full)Constructor", path.read_text()):
            found.append((path.name, "a loader of any object"))
    assert found == []


@pytest.mark.parametrize("tag", ["python/object/apply:os.getcwd []", "python/name:os.system", "python/module:os"])
def test_yaml_that_names_python_objects_is_refused(tag: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"name: !!{tag}\nprimary: {{survey: hsc}}\n")
    with pytest.raises(BadInput, match="YAML"):
        load_recipe(str(tmp_path / "r.yaml"), load_surveys())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", ["primary", "name", "extra"])
def test_yaml_whose_aliases_multiply_is_refused_at_once(place: str, tmp_path: Path) -> None:
    lists = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    (tmp_path / "r.yaml").write_text(f"a0: &a0 [x, x, x]\n{lists}{place}: *a11\n")
    with pytest.raises(BadInput, match=r"r\.yaml"):
        load_recipe(str(tmp_path / "r.yaml"), load_surveys())


@pytest.mark.parametrize("page", ["security.md", "faults.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    tests = {
        name for path in (HERE / "tests").glob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    named = set(re.findall(r"`(test_\w+)`", (HERE / "docs" / page).read_text()))
    assert len(named) > 10
    assert named - tests == set()


def test_a_bomb_in_a_unit_sets_it_aside_and_the_limit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sky = small_sky(tmp_path / "sky")
    bomb = sorted((sky / "one").rglob("*.hdf5"))[0]
    with h5py.File(bomb, "r+") as file:
        del file["image"]
        file.create_dataset("image", (1, 2, 2**14, 2**14), "f4", chunks=(1, 1, 64, 64), compression="gzip")
    monkeypatch.setenv("MMU_MOST_ARRAY_BYTES", "256MiB")
    published = drive(prepared(sky, tmp_path / "root"))
    assert [entry["stage"] for entry in published.set_aside] == ["samples"]
    assert "MMU_MOST_ARRAY_BYTES" in published.set_aside[0]["reason"]


def test_nothing_of_the_package_listens_beyond_loopback_by_default() -> None:
    """No address of all interfaces stands in the code as a default."""
    everywhere = [
        path.name
        for path in [*(HERE / "mmu_pipeline").rglob("*.py"), *(HERE / "flows").rglob("*.py")]
        if "0.0.0.0" in path.read_text()
    ]
    assert everywhere == []


def test_the_command_refuses_urls_with_secrets_and_does_not_show_them(tmp_path: Path) -> None:
    sky = small_sky(tmp_path / "sky")
    words = ["build", str(sky / "pair.yaml"), "--survey-dir", str(sky / "surveys"), "--root", str(tmp_path / "root")]
    words += ["--source", f"one=http://me:{SECRET}@127.0.0.1:9/x?token={SECRET}"]
    command = [sys.executable, "-c", "from mmu_pipeline.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "put credentials where" in done.stderr.replace("\n", " ")
    assert SECRET not in done.stdout + done.stderr
