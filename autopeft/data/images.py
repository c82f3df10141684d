"""Labeled images: from class folders, tables with a column of files, and datasets."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets

from autopeft.data.columns import Columns, join_labels, only_input
from autopeft.data.dataset import UncutRows
from autopeft.data.files import TABLES, read_table
from autopeft.data.labels import LABEL_NAMES, label_column, labeled_rows
from autopeft.data.sources import Source, by_split, class_folders, list_files, read
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

    def load(self, *, is_draft: bool = False) -> Any:
        """Open the image as a `PIL.Image.Image`, upright and in RGB; raises DataError if it does not open.

        `is_draft` only checks that it opens: a JPEG is then decoded small, in a quarter of the time.
        """
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
                if is_draft:
                    image.draft(None, (1, 1))  # has no effect on formats other than JPEG
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
    source = _read_tables(spec).with_tables(lambda pair: (join_labels(pair[0], spec.label_column), pair[1]))
    table, _ = source.tables["train"][0]
    names, place = table.column_names, table.info.dataset_name or source.name
    files = only_input(spec, names, FILE_NAMES, content=f"image files in {place}")
    label = label_column(spec, names, inputs=[files], usual_names=LABEL_NAMES)
    columns = Columns(inputs=(files,), label=label, group=spec.group_column, time=spec.time_column)
    note = f"The images are in column {files}, the label is in column {label}."
    images: dict[str, ImageFile] = {}
    keyed: dict[str, list[Any]] = {split: [] for split in source.tables}
    for split, pairs in source.tables.items():
        for table, folder in pairs:
            with_keys, of_table = _with_keys(table, files, folder=folder, split=split)
            keyed[split].append(with_keys)
            images |= of_table
    uncut = labeled_rows(spec, Source(source.name, keyed, (*source.notes, note)), columns=columns)
    splits = {
        split: [row._replace(inputs=(images[row.inputs[0]],)) for row in rows]
        for split, rows in uncut.splits.items()
    }
    return replace(uncut, splits=splits)


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


def _with_keys(table: Any, column: str, *, folder: Path, split: str) -> tuple[Any, dict[str, ImageFile]]:
    """Replace each image of a table by a key (None if missing), and map the keys to the images."""
    if column not in table.column_names:
        return table, {}  # `labeled_rows` reports the missing column
    if isinstance(table.features[column], datasets.Image):
        table = table.cast_column(column, datasets.Image(decode=False))
    keys: list[str | None] = []
    images: dict[str, ImageFile] = {}
    for index, cell in enumerate(table[column]):
        key = None
        if cell is not None and cell != "":
            image = _find_image(cell, folder, f"row {index + 1} of {split}")
            key = f"{image.digest} {image.path}"
            images[key] = image
        keys.append(key)
    return table.remove_columns(column).add_column(column, keys), images


def _find_image(cell: Any, folder: Path, where: str) -> ImageFile:
    """Load the image of a cell: a record with bytes or a path, bytes, or the name of a file in the folder."""
    path, content = cell, None
    if isinstance(cell, dict):
        path, content = cell.get("path"), cell.get("bytes")
    elif isinstance(cell, bytes):
        path, content = None, cell
    if content is None:
        try:
            path = str(folder / path)
            content = Path(path).read_bytes()
        except (OSError, TypeError) as error:
            raise DataError(
                f"The image {shortened(str(cell), 100)} of {where} is not in {folder} or cannot be read; "
                "correct the path, or unpack its archive."
            ) from error
        return ImageFile(digest=_digest(content), path=path)
    return ImageFile(digest=_digest(content), path=path or where, content=content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
