"""Writing in one step, receipts, and what killed processes leave."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pyarrow as pa
import pytest

from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.fingerprint import fingerprint, spelled
from mmu_pipeline.receipt import Receipt, read_receipt, valid_receipt, write_receipt
from mmu_pipeline.redaction import public_url
from mmu_pipeline.storage import Root, claim, digest


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    return Root(str(tmp_path / "root") if request.param == "disk" else f"memory://{tmp_path.name}")


def test_what_is_written_is_read_back(root: Root) -> None:
    root.write_json("a/b.json", {"z": 1, "a": [1, 2]})
    assert root.read_json("a/b.json") == {"a": [1, 2], "z": 1}
    table = pa.table({"x": [1, 2, 3], "y": ["a", None, "c"]})
    root.write_table("t.parquet", table)
    assert root.read_table("t.parquet", ["x"], [("x", ">", 1)])["x"].to_pylist() == [2, 3]
    assert root.size("t.parquet") == len(root.read_bytes("t.parquet"))
    assert root.size("nothing") is None
    root.remove("a", recursive=True)
    assert not root.exists("a/b.json")


def test_the_same_table_gives_the_same_bytes(root: Root) -> None:
    table = pa.table({"x": list(range(1000)), "y": [f"n{n}" for n in range(1000)]})
    for name in ("one", "two"):
        root.write_table(name, table)
    assert digest(root.read_bytes("one")) == digest(root.read_bytes("two"))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    root.write_bytes("f", b"old")

    def fail() -> None:
        with root.writing("f") as file:
            file.write(b"half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert root.read_bytes("f") == b"old"


def _die_while_writing(url: str) -> None:
    with Root(url).writing("f") as file:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), 9)


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_while_writing, args=(str(tmp_path),))
    process.start()
    process.join()
    root = Root(str(tmp_path))
    with root.writing("g") as file:
        assert len(list(tmp_path.glob("*.partial"))) == 2
        root.sweep()
        assert [path.name.split(".")[0] for path in tmp_path.glob("*.partial")] == ["g"]
        file.write(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["g"]


def test_a_receipt_counts_only_for_its_inputs_and_while_its_outputs_are_whole(root: Root) -> None:
    root.write_bytes("out", b"12345")
    receipt = write_receipt(root, Receipt("scan", "one/7", "print", outputs={"out": 5}, facts={"cells": {"7": 3}}))
    assert valid_receipt(root, "scan", "one/7", "print") == receipt
    assert valid_receipt(root, "scan", "one/7", "other") is None
    root.write_bytes("out", b"1234")
    assert valid_receipt(root, "scan", "one/7", "print") is None
    write_receipt(root, Receipt("scan", "one/8", "print", status="partial"))
    assert valid_receipt(root, "scan", "one/8", "print") is None
    root.write_bytes("receipts/scan/one/9.json", b"{half")
    assert read_receipt(root, "scan", "one/9") is None
    with pytest.raises(BrokenArtefact, match="not valid JSON"):
        root.read_json("receipts/scan/one/9.json")


def test_fingerprints_follow_content_not_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint("a", "b") != fingerprint("ab")
    assert fingerprint(1, spelled({"b": [2], "a": 1})) == fingerprint(1, {"a": 1, "b": [2]})
    with pytest.raises(TypeError):
        fingerprint(object())


def test_a_place_is_claimed_for_one_thing(root: Root) -> None:
    claim(root, "who.json", {"a": 1}, False, "a thing")
    claim(root, "who.json", {"a": 1}, False, "a thing")
    with pytest.raises(BadInput, match="a thing made otherwise"):
        claim(root, "who.json", {"a": 2}, False, "a thing")
    claim(root, "who.json", {"a": 2}, True, "a thing")
    assert root.read_json("who.json") == {"a": 2}


def test_urls_are_shown_without_secrets() -> None:
    assert public_url("https://me:secret@host:8000/a/b?token=1#x") == "https://host:8000/a/b"
    assert public_url("/data/x") == "/data/x"
