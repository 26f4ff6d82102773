"""A build whose root is an object store: the same set, published in one step."""

import fsspec
import pytest
import s3fs

from mmu_pipeline.shards.manifest import shards_in
from mmu_pipeline.shards.opened import read_manifest
from mmu_pipeline.stages.prepare import claim_root, prepare
from mmu_pipeline.stages.verify import verify, verify_shard
from mmu_pipeline.storage import Root
from tests.test_pipeline import Sky, content, run_all


@pytest.mark.slow
def test_a_build_on_an_object_store_gives_the_same_bytes(tmp_path, bucket):
    sky = Sky(tmp_path)
    build = prepare(str(sky.recipe), root=f"{bucket}/root", survey_dirs=[sky.folder / "surveys"], cache=str(tmp_path / "cache"))
    claim_root(build)
    _, there = run_all(build)
    assert there.url.startswith(f"{bucket}/root/shards/pair/")
    _, here = run_all(sky.prepare())
    s3 = s3fs.S3FileSystem()
    found = {path.split(f"{there.version}/")[1]: s3.cat_file(path) for path in s3.find(there.url)}
    assert found == content(here)
    assert verify(there.url).ok
    root = Root(there.url)
    manifest = read_manifest(root)
    assert verify_shard(root, shards_in(manifest)[0], manifest)[0] == []
    assert run_all(build)[1].reused


def test_a_move_that_was_broken_off_goes_on():
    memory = fsspec.filesystem("memory")
    root = Root("memory://moving")
    for name in ("a.tar", "sub/b", "manifest.json"):
        root.write_bytes(f".aside/{name}", name.encode())
    memory.pipe("/moving/set/a.tar", b"half")  # as the first attempt left it
    root.move(".aside", "set", last="manifest.json")
    try:
        assert {name: root.read_bytes(f"set/{name}") for name in ("a.tar", "sub/b", "manifest.json")} == {
            "a.tar": b"a.tar", "sub/b": b"sub/b", "manifest.json": b"manifest.json"
        }  # fmt: skip
        assert not root.exists(".aside")
    finally:
        memory.rm("/moving", recursive=True)
