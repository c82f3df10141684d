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
from autopeft.data.files import TABLES, read_table
from autopeft.data.sources import Source, by_split, class_folders, list_files, read
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
    source = _read_tables(spec)
    table, _ = source.tables["train"][0]
    names, place = table.column_names, table.info.dataset_name or source.name
    files = only_input(spec, names, FILE_NAMES, content=f"image files in {place}")
    label = label_column(spec, names, inputs=[files])
    note = f"The images are in column {files}, the label is in column {label}."
    source = source.with_tables(lambda pair: _undecoded(pair[0], pair[1], files))
    source = source._replace(notes=(*source.notes, note))
    columns = Columns(inputs=(files,), label=label, group=spec.group_column)
    return labeled_rows(spec, source, columns, read_input=_read_image)


def _read_tables(spec: DataSpec) -> Source:
    """Read the tables of each split as pairs: a table, and the folder that its image paths start from."""
    path = path_at_home(str(spec.source))
    files: Source | None
    if path.is_dir() and not any(file.suffix.lower() in TABLES for file in path.glob("[!._]*")):
        metadata = [file for file in sorted(path.glob("[!._]*/metadata.*")) if file.suffix.lower() in TABLES]
        if not metadata:
            return class_folders(path, _SUFFIXES).with_tables(lambda table: (table, path))
        files = by_split(path.resolve().name, [(file.parent.name, file) for file in metadata])
    else:
        files = list_files(spec)
    if files is None or files.tables["train"][0].is_dir():  # a dataset of the hub, or a saved one
        return read(spec).with_tables(lambda table: (table, path))
    return files.with_tables(lambda file: (read_table(file), file.parent))


def _undecoded(table: Any, folder: Path, column: str) -> Any:
    """Leave images undecoded, and begin the paths of image files with their folder."""
    if column not in table.column_names:
        return table  # `labeled_rows` reports the missing column
    if isinstance(table.features[column], datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    if not holds_strings(head_of(table), column):
        return table
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
