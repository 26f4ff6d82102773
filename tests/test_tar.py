"""Samples in plain ustar: what is written is what GNU tar, the standard library and our strict reader find, byte by byte."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.shards.samples import KEY, Sample, sample_key, training_order
from mmu_pipeline.shards.tar import Ranges, copied, iterate, read_sample, write_samples
from mmu_pipeline.shards.ustar import END_OF_ARCHIVE, read_npy

RNG = np.random.default_rng(20)
DTYPES = st.sampled_from(["?", "<i1", "<u2", "<i4", "<i8", "<f2", "<f4", "<f8"])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9))
RECORDS = st.dictionaries(
    st.text("abcdefgh_", min_size=1),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
)


def some_samples(count: int = 7) -> list[Sample]:
    return [
        Sample(
            sample_key([f"SN 20{row}", None], row),
            {"hsc.image": RNG.normal(size=(5, 16, 16)).astype("<f4"), "sdss.flux": RNG.normal(size=row).astype("<f8")},
            {"healpix": 1104, "name": f"SN 20{row}", "z": None if row % 2 else 0.1 * row},
        )
        for row in range(count)
    ]


def written(samples: list[Sample]) -> tuple[bytes, list[dict]]:
    file = io.BytesIO()
    return file, write_samples(file, samples).to_pylist()


def same(one: Sample, other: Sample) -> bool:
    arrays = [(one.arrays[name], other.arrays[name]) for name in one.arrays]
    return (
        one.key == other.key
        and list(one.arrays) == list(other.arrays)
        and one.record == other.record
        and all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in arrays)
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ARRAYS, ARRAYS, RECORDS), max_size=5))
def test_what_is_written_is_read_back(contents):
    samples = [Sample(f"k-{row}", {"a.x": a, "b.y_2": b}, record) for row, (a, b, record) in enumerate(contents)]
    file, rows = written(samples)
    tar = memoryview(file.getvalue())
    found = [read_sample(tar, members) for members in iterate(tar)]
    assert len(found) == len(samples)
    assert all(map(same, samples, found))
    for row, sample in zip(rows, samples, strict=True):
        content = tar[row["offset"] : row["offset"] + row["nbytes"]]
        assert row["digest"] == xxhash.xxh3_64_intdigest(content)
        assert row["key"] == sample.key
        for start, size, array in zip(row["member_offset"], row["member_nbytes"], sample.arrays.values(), strict=False):
            assert (row["offset"] + start) % 512 == 0
            assert bytes(content[start : start + size][-array.nbytes :] if array.nbytes else b"") == array.tobytes()
            assert (size - array.nbytes) % 64 == 0


def test_the_numbers_start_64_byte_aligned():
    file, rows = written(some_samples())
    tar = memoryview(file.getvalue())
    starts = [
        row["offset"] + start + size
        for row in rows
        for start, size in zip(row["member_offset"], row["member_nbytes"], strict=True)
    ]
    assert starts
    base = np.frombuffer(tar, np.uint8).ctypes.data
    for members in iterate(tar):
        for array in read_sample(tar, members).arrays.values():
            assert (array.ctypes.data - base) % 64 == 0


def test_a_file_and_memory_get_the_same_bytes(tmp_path):
    samples = some_samples(300)
    with open(tmp_path / "a.tar", "wb") as file:
        on_disk = write_samples(file, samples)
    memory = io.BytesIO()
    assert write_samples(memory, samples) == on_disk
    assert (tmp_path / "a.tar").read_bytes() == memory.getvalue()


def test_large_arrays_and_many_buffers_are_written_whole(tmp_path):
    large = RNG.normal(size=3_000_000)
    many = {f"a.f{number}": np.full(3, number, "<i4") for number in range(700)}
    samples = [Sample("large", {"a.x": large}, {}), Sample("many-1", many, {}), Sample("many-2", many, {})]
    with open(tmp_path / "a.tar", "wb") as file:
        write_samples(file, samples)
    tar = memoryview((tmp_path / "a.tar").read_bytes())
    assert all(map(same, samples, (read_sample(tar, members) for members in iterate(tar))))


def test_a_kernel_that_takes_a_little_at_a_time_gets_it_all(tmp_path, monkeypatch):
    samples, whole = some_samples(20), io.BytesIO()
    write_samples(whole, samples)
    monkeypatch.setattr(os, "writev", lambda file, buffers: os.write(file, b"".join(map(memoryview, buffers))[:1777]))
    with open(tmp_path / "a.tar", "wb") as file:
        write_samples(file, samples)
    assert (tmp_path / "a.tar").read_bytes() == whole.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_is_an_error():
    with open("/dev/full", "wb") as file, pytest.raises(OSError, match="No space left"):
        write_samples(file, some_samples())


def test_standard_library_and_gnu_tar_see_plain_files(tmp_path):
    samples = some_samples()
    with open(tmp_path / "a.tar", "wb") as file:
        write_samples(file, samples)
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
        assert {(m.mode, m.uid, m.gid, m.mtime, m.uname, m.gname, m.type) for m in members} == {(0o444, 0, 0, 0, "", "", b"0")}
        assert not tar.pax_headers
        content = np.load(io.BytesIO(tar.extractfile(f"{samples[3].key}.hsc.image.npy").read()), allow_pickle=False)
        assert np.array_equal(content, samples[3].arrays["hsc.image"])
    listing = subprocess.run(["tar", "tvf", tmp_path / "a.tar"], capture_output=True, text=True, check=True)
    assert not listing.stderr
    assert len(listing.stdout.splitlines()) == 21
    assert all(line.startswith("-r--r--r-- 0/0 ") for line in listing.stdout.splitlines())


def test_missing_values_and_nan_are_null_in_json():
    file, _ = written([Sample("k", {}, {"a": float("nan"), "b": None, "c": 1})])
    assert b'{"a":null,"b":null,"c":1}' in file.getvalue()


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (Sample("a.b", {}, {}), "key of a sample"),
        (Sample("../a", {}, {}), "key of a sample"),
        (Sample("k" * 90, {"survey.field": np.zeros(1)}, {}), "longer than the 100"),
        (Sample("k", {"Survey.field": np.zeros(1)}, {}), "not a member name"),
        (Sample("k", {"s.f": np.zeros(1, ">f4")}, {}), "cannot be written"),
        (Sample("k", {"s.f": np.zeros(1, object)}, {}), "cannot be written"),
        (Sample("k", {"s.f": np.zeros((4, 4))[:, ::2]}, {}), "not contiguous"),
    ],
)
def test_what_readers_would_not_understand_is_refused(sample, words):
    with pytest.raises(BadInput, match=words):
        write_samples(io.BytesIO(), [sample])


def test_keys_are_readable_stable_and_distinct():
    assert sample_key(["SNLS-03D1ax", None]) == sample_key(["SNLS-03D1ax", None])
    keys = {sample_key(ids, n) for ids in (["a", "b"], ["a", None], ["ab"], ["a/b"], ["a.b"], [None], [""]) for n in (0, 1)}
    assert len(keys) == 14
    assert all(KEY.fullmatch(key) for key in keys)
    assert sample_key(["1237648720693755918"]).startswith("1237648720693755918-")
    assert len(sample_key(["x" * 80, "y"])) == 24 + 17
    assert sample_key(["b'é"]).isascii()


def test_training_order_depends_on_key_and_seed_only():
    keys = [f"k-{n}" for n in range(100)]
    order = training_order(keys, 3)
    assert order.dtype == np.uint64
    assert np.array_equal(order[::-1], training_order(keys[::-1], 3))
    assert not np.array_equal(np.argsort(order), np.argsort(training_order(keys, 4)))


def pieces_of(samples: list[Sample], folder, count: int) -> tuple[list[str], list[tuple[int, int, int]]]:
    paths, ranges = [], []
    for number in range(count):
        path = folder / f"{number}.tar"
        with open(path, "wb") as file:
            rows = write_samples(file, samples[number::count]).to_pylist()
        paths.append(str(path))
        ranges += [(number, row["offset"], row["nbytes"]) for row in rows]
    return paths, ranges


def test_a_shard_of_ranges_equals_the_samples_written_in_that_order(tmp_path):
    samples = some_samples(50)
    paths, ranges = pieces_of(samples, tmp_path, 4)
    order = np.random.default_rng(5).permutation(50)
    wanted = io.BytesIO()
    write_samples(wanted, [[s for n in range(4) for s in samples[n::4]][row] for row in order])
    chosen = Ranges(*np.array(ranges, np.int64)[order].T)
    with open(tmp_path / "shard.tar", "wb") as file:
        total = xxhash.xxh3_128()
        given = [bytes(content) for content in copied(file, fsspec.filesystem("file"), paths, chosen, 1, [total])]
        assert file.tell() == len(wanted.getvalue())
    assert (tmp_path / "shard.tar").read_bytes() == wanted.getvalue() == b"".join(given) + END_OF_ARCHIVE
    assert total.digest() == xxhash.xxh3_128_digest(wanted.getvalue())
    with open(tmp_path / "pairs.tar", "wb") as file:
        pairs = [bytes(content) for content in copied(file, fsspec.filesystem("file"), paths, chosen, 2, [])]
    assert pairs == [given[row] + given[row + 1] for row in range(0, 50, 2)]

    memory = fsspec.filesystem("memory")
    for path in paths:
        memory.pipe(path, Path(path).read_bytes())
    remote = io.BytesIO()
    assert [bytes(content) for content in copied(remote, memory, paths, chosen, 1, [])] == given
    assert remote.getvalue() == wanted.getvalue()


@pytest.mark.parametrize("local", [True, False])
def test_a_piece_that_is_shorter_than_its_index_says_is_named(tmp_path, local):
    paths, ranges = pieces_of(some_samples(8), tmp_path, 2)
    content = Path(paths[1]).read_bytes()[:-4000]
    Path(paths[1]).write_bytes(content)
    chosen = Ranges(*np.array(ranges, np.int64).T)
    fs = fsspec.filesystem("file")
    with open(tmp_path / "shard.tar", "wb") as file, pytest.raises(BrokenArtefact, match="shorter") as error:
        list(copied(file if local else io.BytesIO(), fs, paths, chosen, 1, []))
    assert error.value.where["file"] == paths[1]


def forged(*patches: tuple[int, bytes]) -> bytes:
    """A tar of one sample whose header was changed at some offsets, and its checksum with it."""
    tar = bytearray(written([Sample("k", {}, {"a": 1})])[0].getvalue())
    for offset, content in patches:
        tar[offset : offset + len(content)] = content
    tar[148:156] = b" " * 8
    tar[148:156] = b"%06o\0 " % sum(tar[:512])
    return bytes(tar)


@pytest.mark.parametrize(
    ("tar", "words"),
    [
        (forged((0, b"../../etc/passwd")), "not the name"),
        (forged((0, b"/abs.json")), "not the name"),
        (forged((0, b"a/b.json")), "not the name"),
        (forged((345, b"etc")), "not a plain ustar"),
        (forged((156, b"2"), (157, b"/etc/passwd")), "not a plain ustar"),
        (forged((156, b"1"), (157, b"k.json")), "not a plain ustar"),
        (forged((156, b"3")), "not a plain ustar"),
        (forged((156, b"x")), "not a plain ustar"),
        (forged((136, b"00000000001")), "not a plain ustar"),
        (forged((265, b"me")), "not a plain ustar"),
        (forged((100, b"0000777")), "not a plain ustar"),
        (forged((257, b"ustar  \0")), "not a plain ustar"),
        (forged((124, b"00000010000")), "within a member"),
        (forged()[:500], "within a header"),
        (forged()[:1024], "within a header"),
        (forged()[:1536], "two blocks of zeros"),
        (forged() + bytes(512), "two blocks of zeros"),
        (b"K" + forged()[1:], "checksum"),
        (b"not a tar at all" * 100, "checksum"),
        (b"", "within a header"),
    ],
)
def test_a_tar_that_is_not_ours_is_refused(tar, words):
    with pytest.raises(BrokenArtefact, match=words):
        list(iterate(memoryview(tar), "x.tar"))


def test_a_pickled_array_is_refused():
    content = io.BytesIO()
    np.save(content, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(BrokenArtefact, match="npy"):
        read_npy(memoryview(content.getvalue()), "k.a.x.npy")
