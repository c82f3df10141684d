"""Labelled images: from folders of classes, tables with a column of files, and datasets."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets

from autopeft.data.columns import Columns, join_labels, only_input
from autopeft.data.dataset import UncutRows
from autopeft.data.formats import TABLES, read_table, suffix_of
from autopeft.data.labels import LABEL_NAMES, label_column, labelled
from autopeft.data.sources import Source, by_part, is_list, listed_by_part, read, read_class_folders
from autopeft.errors import DataError, reason_of
from autopeft.types import DataSpec, path_at_home, shortened

# Pillow knows the suffixes of these formats, but has no decoder of its own for them.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# What the decoders of Pillow raise beside its `DecompressionBombError`.
_DECODER_ERRORS = (OSError, EOFError, RuntimeError, SyntaxError, ValueError)
FILE_NAMES = "file image filename file_name filepath path image_path image_file image_id img"


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One image; two are equal if their bytes are. `content` has the bytes of an image that is no file."""

    digest: str
    path: str = field(compare=False)
    content: bytes | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.digest

    def load(self, *, is_draft: bool = False) -> Any:
        """Open the image as a `PIL.Image.Image`, upright and in RGB; raises DataError if it does not open.

        `is_draft` only checks that it opens: a JPEG is then made small, in a quarter of the time.
        """
        module = pillow()
        from PIL import ImageOps

        try:
            content = Path(self.path).read_bytes() if self.content is None else self.content
            with module.open(io.BytesIO(content)) as image:
                if image.mode[0] in "FI":  # which Pillow would cut at 255
                    raise DataError(
                        f"The image {self.path} has more than 8 bits a value (Pillow's mode {image.mode}); "
                        "write all images with 8 bits, scaled alike."
                    )
                if is_draft:
                    image.draft(None, (1, 1))  # has no effect on formats other than JPEG
                image.load()  # first: to read its orientation may decode it too, and those errors are ignored
                upright = image
                with contextlib.suppress(*_DECODER_ERRORS, TypeError, struct.error):
                    upright = ImageOps.exif_transpose(image)
                return upright.convert("RGB")
        except (*_DECODER_ERRORS, module.DecompressionBombError) as error:
            is_unknown = isinstance(error, module.UnidentifiedImageError)  # its text has an address in memory
            reason = "it is of no kind that Pillow reads" if is_unknown else reason_of(error)
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
    source = _read_tables(spec, spec.source)
    for part, tables in source.tables.items():
        source.tables[part] = [(join_labels(table, spec.label_column), folder) for table, folder in tables]
    table, _ = source.tables["train"][0]
    names, place = table.column_names, table.info.dataset_name or source.name
    files = only_input(spec, names, FILE_NAMES, content=f"image files in {place}")
    label = label_column(spec, names, inputs=[files], usual_names=LABEL_NAMES)
    columns = Columns(inputs=(files,), label=label, group=spec.group_column, time=spec.time_column)
    note = f"The images are in column {files}, the label is in column {label}."
    images: dict[str, ImageFile] = {}
    keyed: dict[str, list[Any]] = {part: [] for part in source.tables}
    for part, tables in source.tables.items():
        for table, folder in tables:
            with_keys, of_table = _with_keys(table, files, folder=folder, part=part)
            keyed[part].append(with_keys)
            images |= of_table
    uncut = labelled(spec, Source(source.name, keyed, (*source.notes, note)), columns=columns)
    parts = {
        part: [row._replace(inputs=(images[row.inputs[0]],)) for row in rows]
        for part, rows in uncut.parts.items()
    }
    return replace(uncut, parts=parts)


def _read_tables(spec: DataSpec, place: str) -> Source:
    """Read the tables of each part as pairs: a table, and the folder that its image paths start from."""
    path = path_at_home(place)
    files: Source | None = None
    if is_list(place):
        files = listed_by_part(place)
    elif path.is_dir() and not any(suffix_of(file) in TABLES for file in path.glob("[!._]*")):
        name = path.resolve().name
        metadata = sorted(file for file in path.glob("[!._]*/metadata.*") if suffix_of(file) in TABLES)
        if not metadata:
            kinds = pillow().registered_extensions()  # this call fills `OPEN`, too
            readable = set(pillow().OPEN) - _NOT_DECODED
            suffixes = {suffix for suffix, kind in kinds.items() if kind in readable}
            source = read_class_folders(path, suffixes, content="image")
        else:  # a table in each folder
            files = Source(name, *by_part({file.parent.name: file for file in metadata}, name))
    else:
        source = read(spec)
    if files is not None:
        tables = {part: [(read_table(f), f.parent) for f in paths] for part, paths in files.tables.items()}
        return files._replace(tables=tables)
    folder = path if path.is_dir() else path.parent
    return source._replace(
        tables={part: [(table, folder) for table in tables] for part, tables in source.tables.items()}
    )


def _with_keys(table: Any, column: str, *, folder: Path, part: str) -> tuple[Any, dict[str, ImageFile]]:
    """Replace each image of a table by a key (None if missing), and map the keys to the images."""
    if column not in table.column_names:
        return table, {}  # `labelled` names the missing column
    if isinstance(table.features[column], datasets.Image):
        table = table.cast_column(column, datasets.Image(decode=False))
    keys: list[str | None] = []
    images: dict[str, ImageFile] = {}
    for index, cell in enumerate(table[column]):
        key = None
        if cell is not None and cell != "":
            image = _find_image(cell, folder, f"row {index + 1} of {part}")
            key = f"{image.digest} {image.path}"
            images[key] = image
        keys.append(key)
    return table.remove_columns(column).add_column(column, keys), images


def _find_image(cell: Any, folder: Path, where: str) -> ImageFile:
    """Find the image of a cell: a record with bytes or a path, bytes, or the name of a file in the folder."""
    if isinstance(cell, Mapping):
        if cell.get("bytes") is None and cell.get("path") is None:
            raise DataError(f"The image in {where} holds neither bytes nor a path; complete or drop the row.")
        return _hashed(str(cell.get("path") or where), content=cell.get("bytes"))
    if isinstance(cell, bytes):
        return _hashed(where, content=cell)
    if not isinstance(cell, str):
        raise DataError(
            f"The image in {where} is a {type(cell).__name__}; allowed are image files, their bytes or paths."
        )
    for spelling in (cell, cell.replace("\\", "/")):  # of a table that was made on Windows
        if os.path.isfile(folder / spelling):  # noqa: PTH113 - Path.is_file raises if long
            return _hashed(str(folder / spelling))
    raise DataError(
        f"The image {shortened(cell, 100)} of {where} is not in {folder}; correct the path, or unpack its "
        "archive."
    )


def _hashed(path: str, *, content: bytes | None = None) -> ImageFile:
    """Digest an image's bytes; raises DataError for a file that cannot be read."""
    try:
        read_bytes = Path(path).read_bytes() if content is None else content
    except OSError as error:
        text = f"The image {path} cannot be read ({error.strerror or error}); replace it or leave it out."
        raise DataError(text) from error
    digest = hashlib.sha256(read_bytes).hexdigest()[:16]
    return ImageFile(digest=digest, path=path, content=content)
