"""Labelled images: from folders of classes, tables with a column of files or zip members, and datasets."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from lzma import LZMAError
from pathlib import Path
from typing import Any

import datasets

from autopeft.data.columns import Columns, only_input
from autopeft.data.files import IMAGES, TABLES, read_table, suffix_of
from autopeft.data.labels import LABEL_NAMES, label_column, labelled
from autopeft.data.rows import UncutRows
from autopeft.data.sources import SPLIT_WORD, by_part, is_list, listed_by_part, read
from autopeft.errors import DataError, reason_of
from autopeft.records import DataSpec

# What a file, a damaged or encrypted member of a zip file, and the decoder of an image raise.
_UNREADABLE = (
    *(OSError, EOFError, RuntimeError, SyntaxError, ValueError),
    *(zipfile.BadZipFile, zlib.error, LZMAError),
)
FILE_NAMES = "file image filename file_name path image_path image_file img"


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One image; two are equal exactly if their bytes are.

    `content` holds the bytes of an image without a file. `member` is the image's name in the zip file `path`.
    """

    digest: str
    path: str = field(compare=False)
    member: str | None = field(default=None, compare=False)
    content: bytes | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.digest

    @property
    def name(self) -> str:
        """What messages call the image."""
        return _name(self.path, self.member)

    def load(self) -> Any:
        """The image in RGB, a `PIL.Image.Image`; a DataError if it does not open or Pillow is missing."""
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError as error:
            raise DataError('Images need Pillow; install it with: pip install "autopeft[vision]".') from error
        try:
            with Image.open(io.BytesIO(_bytes(self.path, self.member, self.content))) as image:
                return image.convert("RGB")
        except (*_UNREADABLE, Image.DecompressionBombError) as error:
            is_unknown = isinstance(error, UnidentifiedImageError)  # its text has an address in memory
            reason = "it is of no kind that Pillow reads" if is_unknown else reason_of(error)
            text = f"The image {self.name} does not open ({reason}); replace it or leave it out."
            raise DataError(text) from error


def read_images(spec: DataSpec, notes: list[str]) -> UncutRows:
    """Rows of one image with a label; raises DataError without images or labels, or if a file is missing."""
    if not spec.source:
        raise DataError("The sample dataset has texts; name a folder of images with --data.")
    name, tables = _tables(spec, spec.source, notes)
    names = tables["train"][0][0].column_names
    files = only_input(spec, names, FILE_NAMES, content="image files")
    label = label_column(spec, names, inputs=[files], usual_names=LABEL_NAMES)
    columns = Columns(inputs=(files,), label=label, group=spec.group_column, time=spec.time_column)
    notes.append(f"Images are column {files}; the label is column {label}.")
    images: dict[str, ImageFile] = {}
    keyed = {
        part: [_with_keys(table, files, images, folder=folder, part=part) for table, folder in part_tables]
        for part, part_tables in tables.items()
    }
    uncut = labelled(spec, name, keyed, columns=columns, notes=notes)
    for part, rows in uncut.parts.items():
        uncut.parts[part] = [row._replace(inputs=(images[row.inputs[0]],)) for row in rows]
    return uncut


def _tables(spec: DataSpec, source: str, notes: list[str]) -> tuple[str, dict[str, list[tuple[Any, Path]]]]:
    """The dataset's name, and the tables of each part with the folder that image paths start from."""
    if is_list(source):
        name, listed = listed_by_part(source, notes)
        pairs = {part: [(read_table(file), file.parent) for file in listed[part]] for part in listed}
        return name, pairs
    path = Path(source).expanduser()
    if path.is_dir() and not any(suffix_of(file) in TABLES for file in path.glob("[!._]*")):
        name, tables = path.resolve().name, _class_folders(path, notes)
    else:
        name, tables = read(spec, notes)
    folder = path if path.is_dir() else path.parent
    return name, {part: [(table, folder) for table in part_tables] for part, part_tables in tables.items()}


def _class_folders(path: Path, notes: list[str]) -> dict[str, list[Any]]:
    """A table per part from `train/cat/1.png`, or from `cat/1.png` if no folder is named after a split."""
    folders = {child.name: child for child in sorted(path.glob("[!._]*")) if child.is_dir()}
    if not folders:
        raise DataError(
            f"The folder {path} holds neither a table ({', '.join(TABLES)}) nor folders of classes; put "
            "images into one folder per class, or a table with columns file and label beside them."
        )
    is_split = any(SPLIT_WORD.search(name.lower()) for name in folders)
    parts = by_part(folders, path.name, notes) if is_split else {"train": [path]}
    return {part: [_table_of(folder) for folder in chosen] for part, chosen in parts.items()}


def _table_of(folder: Path) -> Any:
    files = sorted(file for file in folder.glob("*/**/*") if file.suffix.lower() in IMAGES)
    if not files:
        raise DataError(f"{folder} holds no image in a folder of its class ({', '.join(IMAGES)}).")
    labels = [file.relative_to(folder).parts[0] for file in files]
    return datasets.Dataset.from_dict({"file": [str(file.resolve()) for file in files], "label": labels})


def _with_keys(table: Any, column: str, images: dict[str, ImageFile], *, folder: Path, part: str) -> Any:
    """The table with a key in place of each image (None if missing); adds key -> image to `images`."""
    if column not in table.column_names:
        return table  # `labelled` names the missing column
    if isinstance(table.features[column], datasets.Image):
        table = table.cast_column(column, datasets.Image(decode=False))
    keys: list[str | None] = []
    for index, cell in enumerate(table[column]):
        if cell is None or cell == "":
            keys.append(None)
            continue
        where = f"row {index + 1} of {part}"
        image = _of_cell(cell, where) if isinstance(cell, Mapping) else _of_name(str(cell), folder, where)
        keys.append(f"{image.digest} {image.name}")
        images[f"{image.digest} {image.name}"] = image
    return table.remove_columns(column).add_column(column, keys)


def _of_cell(cell: Mapping[str, Any], where: str) -> ImageFile:
    if cell.get("bytes") is None and cell.get("path") is None:
        raise DataError(f"The image in {where} holds neither bytes nor a path; complete or drop the row.")
    return _image(str(cell.get("path") or where), content=cell.get("bytes"))


def _of_name(name: str, folder: Path, where: str) -> ImageFile:
    """The image of a file in the folder, or else of a member of a zip file there."""
    if (folder / name).is_file():
        return _image(str(folder / name))
    archives = sorted(str(file) for file in folder.glob("*.zip"))
    for archive in archives:
        if name in _members(archive):
            return _image(archive, member=name)
    beside = f" or {', '.join(Path(archive).name for archive in archives)}" if archives else ""
    raise DataError(f"The image {name} of {where} is not in {folder}{beside}; correct the path.")


def _image(path: str, *, member: str | None = None, content: bytes | None = None) -> ImageFile:
    try:
        digest = hashlib.sha256(_bytes(path, member, content)).hexdigest()[:16]
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        text = f"The image {_name(path, member)} cannot be read ({reason}); replace it or leave it out."
        raise DataError(text) from error
    return ImageFile(digest=digest, path=path, member=member, content=content)


def _name(path: str, member: str | None) -> str:
    return f"{member} in {path}" if member else path


def _bytes(path: str, member: str | None, content: bytes | None) -> bytes:
    if content is not None:
        return content
    return _archive(path).read(member) if member else Path(path).read_bytes()


@lru_cache(maxsize=8)
def _archive(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no zip file ({error}); repair or remove it.") from error


@lru_cache(maxsize=8)
def _members(path: str) -> frozenset[str]:
    return frozenset(_archive(path).namelist())
