"""The code in docs/training.md runs, one block after the other."""

import re
from pathlib import Path

from tests.small_set import make_small_set

PAGE = Path(__file__).parents[1] / "docs" / "training.md"


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    make_small_set(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    given: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for block in blocks:
        exec(block, given)
        if "loader" in given:
            assert len(next(iter(given["loader"])))
    assert len(blocks) == 6
    assert given["sample"]["imager.image"].shape == (3, 8, 8)
    assert given["table"].num_rows == len(given["dataset"])
    assert next(iter(given["data"]))["imager.image.npy"].shape == (3, 8, 8)
