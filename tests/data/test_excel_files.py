"""CSV files as Excel writes them: in UTF-16 or another encoding, and with a line that tells the separator."""

from __future__ import annotations

import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.records import DataSpec

ROWS = [("text", "label"), *((f"café {i}", "ab"[i % 2]) for i in range(90))]


def read(path):
    return load(DataSpec(source=str(path)), seed=0)


def text_of(sign, *, end="\r\n"):
    return end.join(sign.join(row) for row in ROWS)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "latin-1"])
def test_another_encoding_is_told_to_be_saved_as_utf_8(tmp_path, encoding):
    path = tmp_path / "rows.csv"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes((mark + text_of(";")).encode(encoding))
    with pytest.raises(
        DataError, match=r"rows\.csv holds no rows or is no UTF-8 csv file.*\. Save it as UTF-8\.$"
    ):
        read(path)


def test_the_line_that_tells_excel_the_separator_is_refused_as_a_header(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(f"sep=;\r\n{text_of(';')}".encode())
    with pytest.raises(DataError, match=r"^There is no label column among sep=, "):
        read(path)
