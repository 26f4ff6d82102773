"""JPEG files as bytes: the size that a header tells, the pixels, and a black picture of any size."""

from __future__ import annotations

import io
import struct
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

START, END = b"\xff\xd8", b"\xff\xd9"
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Second bytes of the markers that begin a frame header (ITU-T T.81, table B.1)."""
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
STEP, DARK_BITS = 8, 8
"""Of the quantisation; and bits of -128, the DC coefficient of black in such steps: 8 x (0 - 128) / 8."""
DARK = (1 << DARK_BITS) - 1 - 128
"""-128 as the additional bits of a Huffman code (T.81, F.1.2.1)."""


def size_of(content: bytes) -> tuple[int, int, int]:
    """Height, width and number of components, from the frame header. Raises ValueError for what is not a whole JPEG file."""
    if not content.startswith(START) or END not in content[-64:]:
        raise ValueError("not a whole JPEG file")
    at = len(START)
    while at + 4 <= len(content) and content[at] == 0xFF:
        kind = content[at + 1]
        if kind == 0xFF or kind in WITHOUT_LENGTH:
            at += 1 if kind == 0xFF else 2
        elif kind in FRAMES and at + 10 <= len(content):
            height, width, components = struct.unpack_from(">HHB", content, at + 5)
            return height, width, components
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4])
    raise ValueError("a JPEG file without a frame header")


def pixels_of(content: bytes) -> Pixels:
    """Pixels, shape (height, width, components), row 0 at the top. Raises ValueError if they cannot be decoded."""
    from PIL import Image

    try:
        decoded = np.asarray(Image.open(io.BytesIO(content), formats=["JPEG"]))
    except (OSError, Image.DecompressionBombError) as error:  # Pillow refuses pictures of more than 179 million pixels
        raise ValueError(str(error)) from error
    return decoded if decoded.ndim == 3 else decoded[:, :, np.newaxis]


@lru_cache(maxsize=16)
def black(height: int, width: int, components: int = 3) -> bytes:
    """A black baseline JPEG file, the same bytes with any library: two bits for each block of 8 x 8 pixels.

    Every component has its blocks in one scan; DC differences are 0 but for the first of the luminance.
    """
    frame = struct.pack(">BHHB", 8, height, width, components) + b"".join(bytes([n, 0x11, 0]) for n in range(1, components + 1))
    scan = bytes([components, *(byte for n in range(1, components + 1) for byte in (n, 0)), 0, 63, 0])
    dc = bytes([1, 1, *([0] * 14), 0, DARK_BITS])
    ac = bytes([1, *([0] * 15), 0])
    blocks = -(-height // 8) * -(-width // 8) * components
    bits = f"10{DARK:0{DARK_BITS}b}0" + "00" * (blocks - 1)
    bits += "1" * (-len(bits) % 8)
    return b"".join(
        [
            START,
            _segment(0xDB, bytes([0, *([STEP] * 64)])),
            _segment(0xC0, frame),
            _segment(0xC4, b"\x00" + dc),
            _segment(0xC4, b"\x10" + ac),
            _segment(0xDA, scan),
            int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00"),
            END,
        ]
    )


def _segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + (len(content) + 2).to_bytes(2) + content
