"""Images of the kinds that Pillow reads become three channels of eight bits; how many bits they had."""

from __future__ import annotations

import contextlib
import io
import struct
from typing import Any

import numpy as np

from autopeft.errors import DataError

# What the decoders of Pillow raise, beside its `DecompressionBombError`.
DECODER_ERRORS = (OSError, EOFError, RuntimeError, SyntaxError, ValueError)
FRACTIONS = 32  # bits of a value that is a floating point number

_ORIENTATION = 0x0112  # the EXIF tag; the turns that undo its values are those of `PIL.Image.Transpose`
_UPRIGHT: dict[object, str] = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_DEPTHS = (8, 12, 16)  # bits of a grey value; cameras and scanners write 12 into 16; chosen by hand
# Pillow knows the suffixes of these formats, but has no decoder of its own for them.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def pillow() -> Any:
    """The module `PIL.Image`; raises DataError if Pillow is missing."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError('Images need Pillow; install it with: pip install "autopeft[vision]".') from error
    return Image


def image_suffixes() -> frozenset[str]:
    """The suffixes of files that Pillow reads, in lower case."""
    known = pillow().registered_extensions()
    readable = set(pillow().OPEN) - _NOT_DECODED
    return frozenset(suffix for suffix, kind in known.items() if kind in readable)


def depth_of(content: bytes) -> int | None:
    """Bits that the grey values of an image need, 8, 12 or 16, or `FRACTIONS` for floating point numbers.

    None for an image of eight bits by its format, and for one that does not open: `rgb_of` tells why.
    """
    module = pillow()
    with (
        contextlib.suppress(*DECODER_ERRORS, module.DecompressionBombError),
        module.open(io.BytesIO(content)) as image,
    ):
        if image.mode == "F":
            return FRACTIONS
        if image.mode.startswith("I"):
            peak = int(np.asarray(image).max())
            return next((n_bits for n_bits in _DEPTHS if peak < 2**n_bits), _DEPTHS[-1])
    return None


def rgb_of(content: bytes, *, n_bits: int, name: str, is_draft: bool = False) -> Any:
    """The image upright and in RGB, a `PIL.Image.Image`; its grey values have `n_bits` where not eight.

    Upright is as the EXIF data of a camera say. With `is_draft` a JPEG file is read to its end and becomes an
    image of an eighth of its sides, which takes a quarter of the time. Raises a DataError for values beyond
    the range.
    """
    module = pillow()
    with module.open(io.BytesIO(content)) as opened:
        if is_draft:
            opened.draft(None, (1, 1))  # of no effect on files of other kinds
        opened.load()  # reading EXIF data may do it too, and its errors would be taken for theirs
        turn = _UPRIGHT.get(_orientation(opened))
        image = opened if turn is None else opened.transpose(module.Transpose[turn])
        if image.mode == "F":
            values = _in_range(np.asarray(image), 1, name)
            image = module.fromarray(np.rint(255 * values).astype(np.uint8))
        elif image.mode.startswith("I"):  # `convert` would cut them at 255
            values = _in_range(np.asarray(image).astype(np.int64), 2 ** _DEPTHS[-1] - 1, name)
            image = module.fromarray(np.minimum(values >> (n_bits - 8), 255).astype(np.uint8))
        return image.convert("RGB")


def _orientation(image: Any) -> object:
    """What the EXIF data of an image say of its turn; None where they cannot be read, as pixels still can."""
    try:
        return image.getexif().get(_ORIENTATION)
    except (*DECODER_ERRORS, TypeError, struct.error):
        return None


def _in_range(values: Any, largest: int, name: str) -> Any:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= largest):  # NaN is neither
        raise DataError(
            f"The image {name} has values from {low:g} to {high:g}; a floating point image may have 0 to 1, "
            "another image 0 to 65535: scale it, or write it with eight bits."
        )
    return values
