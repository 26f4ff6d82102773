"""One sample of a shard set to text for a terminal and a PNG with a picture of each of its parts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from mmu_pipeline.fields import ENCODED
from mmu_pipeline.jpeg import pixels_of
from mmu_pipeline.report.gallery import choose
from mmu_pipeline.report.ink import drawing
from mmu_pipeline.report.samples import (
    Part,
    colour_image,
    draw_light_curve,
    draw_plain,
    draw_spectrum,
    image_field,
    is_light_curve,
    is_spectrum,
    parts_of,
    picture_field,
    plain_arrays,
)
from mmu_pipeline.report.shard_set import ShardSet, open_set
from mmu_pipeline.shards.samples import Sample


def show_sample(shards: str | Path, key: str | None = None, out: str | Path | None = None) -> tuple[str, Path]:
    """What a sample holds, as text, and the path of its picture.

    `key` is a key of the set or an id of its primary survey; None shows one that has as many counterparts as any. The picture
    goes to `out`, else into the folder for temporary files. Raises BadInput if there is no such sample.
    """
    shard_set = open_set(shards)
    row = int(choose(shard_set, 1)[0]) if key is None else shard_set.row_of(key)
    sample = shard_set.sample(row)
    target = Path(out) if out else Path(tempfile.gettempdir()) / f"mmu-{sample.key}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    _picture(sample, shard_set, target)
    return _text(sample, shard_set, row), target


def _text(sample: Sample, shard_set: ShardSet, row: int) -> str:
    index = shard_set.index
    lines = [
        f"{sample.key}",
        f"  split {index['split'][row].as_py()}, {index['shard'][row].as_py()} from byte {index['offset'][row].as_py():,}, "
        f"{index['nbytes'][row].as_py():,} bytes",
        "",
    ]
    for name, array in sample.arrays.items():
        dtype = "JPEG" if array.dtype == ENCODED else array.dtype.name
        lines.append(f"  {name:<28} {dtype:<8} {' x '.join(map(str, array.shape))}")
    lines.append("")
    for name, value in sample.record.items():
        lines.append(f"  {name:<34} {'-' if value is None else value}")
    return "\n".join(lines)


def _picture(sample: Sample, shard_set: ShardSet, target: Path) -> None:
    """One row per part that has a picture."""
    drawable = [part for part in parts_of(sample, shard_set.manifest) if _has_picture(part)]
    with drawing(for_page=False):
        figure = Figure(figsize=(7.5, 2.8 * max(1, len(drawable))), layout="constrained", facecolor="white")
        for axes, part in zip(figure.subplots(max(1, len(drawable)), squeeze=False)[:, 0], drawable, strict=False):
            field = image_field(part)
            axes.set_title(f"{part.survey['title']}: {part.record['object_id']}")
            if field is not None:
                axes.imshow(colour_image(part, field), origin="lower")
                axes.set_axis_off()
            elif (picture := picture_field(part)) is not None:
                axes.imshow(pixels_of(part.arrays[picture].tobytes()))
                axes.set_axis_off()
            elif is_spectrum(part):
                draw_spectrum(axes, part)
            elif is_light_curve(part):
                draw_light_curve(axes, part)
            else:
                draw_plain(axes, part)
        figure.savefig(target, format="png", dpi=130)


def _has_picture(part: Part) -> bool:
    drawn = image_field(part) or picture_field(part)
    return drawn is not None or is_spectrum(part) or is_light_curve(part) or bool(plain_arrays(part))
