"""Labeled images: from class folders, tables with a column of files, and datasets."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from autopeft.data.columns import Columns, head_of, holds_strings, label_column, only_input
from autopeft.data.dataset import UncutRows
from autopeft.data.files import TABLES
from autopeft.data.sources import class_folders, read
from autopeft.data.texts import labeled_rows
from autopeft.errors import DataError, reason_of
from autopeft.types import DataSpec, path_at_home, shortened

# What the decoders of Pillow raise in addition to its `DecompressionBombError`.
_DECODER_ERRORS = (OSError, EOFError, RuntimeError, SyntaxError, ValueError)
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FILE_NAMES = "file image filename file_name path image_path img"


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One image; two are equal if their bytes are. `content` has the bytes of an image that is not a file."""

    digest: str
    path: str = field(compare=False)
    content: bytes | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.digest

    def load(self) -> Any:
        """Open the image as a `PIL.Image.Image`, upright and in RGB; raises DataError if it does not open."""
        module = pillow()
        from PIL import ImageOps

        try:
            content = Path(self.path).read_bytes() if self.content is None else self.content
            with module.open(io.BytesIO(content)) as image:
                if image.mode[0] in "FI":  # which Pillow would cut at 255
                    raise DataError(
                        f"The image {self.path} has more than 8 bits per value (mode {image.mode}); write "
                        "all images with 8 bits, scaled alike."
                    )
                image.load()  # first: to read the orientation may decode it too, and those errors are ignored
                upright = image
                with contextlib.suppress(*_DECODER_ERRORS, TypeError, struct.error):
                    upright = ImageOps.exif_transpose(image)
                return upright.convert("RGB")
        except (*_DECODER_ERRORS, module.DecompressionBombError) as error:
            is_unknown = isinstance(error, module.UnidentifiedImageError)  # its text has an address in memory
            reason = "Pillow does not know its format" if is_unknown else reason_of(error)
            text = f"The image {self.path} does not open ({reason}); replace it or leave it out."
            raise DataError(text) from error


def pillow() -> Any:
    """Import the module `PIL.Image`; raises DataError if Pillow is missing."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("Images need Pillow; install it with: pip install pillow.") from error
    return Image


def read_images(spec: DataSpec) -> UncutRows:
    """Read rows of one image with a label; DataError without images or labels, or if a file is missing."""
    if not spec.source:
        raise DataError("The sample dataset has texts; name a folder of images with --data.")
    path = path_at_home(spec.source)
    has_tables = any(file.suffix.lower() in TABLES for file in path.glob("[!._]*"))
    is_of_classes = path.is_dir() and not has_tables and not list(path.glob("[!._]*/metadata.*"))
    source = class_folders(path, _SUFFIXES) if is_of_classes else read(spec)
    table = source.tables["train"][0]
    place = table.info.dataset_name or source.name
    files = only_input(spec, table, FILE_NAMES, content=f"image files in {place}")
    label = label_column(spec, table, inputs=[files])
    note = f"The images are in column {files}, the label is in column {label}."
    source = source.with_tables(lambda table: _undecoded(table, files))
    columns = Columns(inputs=(files,), label=label, group=spec.group_column)
    return labeled_rows(source, columns, note=note, kind=spec.label_kind, read_input=_read_image)


def _undecoded(table: Any, column: str) -> Any:
    """Leave images undecoded, and begin the paths of image files with the folder of their table."""
    if column not in table.column_names:
        return table  # `labeled_rows` reports the missing column
    if isinstance(table.features[column], datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    if not holds_strings(head_of(table), column):
        return table
    folder = Path(table.info.dataset_name or "").parent
    paths = [cell and str(folder / cell) for cell in table[column][:]]
    return table.remove_columns(column).add_column(column, paths)


def _read_image(cell: Any, column: str) -> ImageFile | None:
    """Load the image of a cell: a path, bytes, or a record of them; None for a blank cell."""
    if not cell:
        return None
    record = cell if isinstance(cell, dict) else {"bytes" if isinstance(cell, bytes) else "path": cell}
    path, content = record.get("path"), record.get("bytes")
    try:
        digest = hashlib.sha256(content or Path(str(path)).read_bytes()).hexdigest()[:16]
    except (OSError, TypeError) as error:
        raise DataError(
            f"The image {shortened(str(cell), 200)} of column {column} cannot be read; correct the path, or "
            "unpack its archive."
        ) from error
    return ImageFile(digest=digest, path=path or f"{digest} of column {column}", content=content)
