"""From a file's bytes to text: compression, binary formats that only look like a table, and the encoding."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from pathlib import Path
from typing import Final

from trend_common.errors import DataError

__all__ = ["decode", "read_bytes"]

_MAGIC: Final = {
    b"PK\x03\x04": "an Excel workbook or a zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls)",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"SQLite format 3": "an SQLite database",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"BZh": "a bzip2 archive",
}
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HIGH_RUNS: Final = re.compile(rb"([A-Za-z]?)([\x80-\xff]+)")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f]")
_SAVE_AS: Final = "Save it as CSV (in Excel: File, Save as, CSV UTF-8), CSV.gz or Parquet."


def read_bytes(path: Path) -> bytes:
    """The file's bytes, gunzipped if they are gzip (told by content, not by name).

    Raises:
        DataError: No such file, a directory, not readable, empty, a broken archive, or a known binary format.
    """
    if not path.exists():
        raise DataError(f"There is no file {path}.", "Check the path after --data.")
    if path.is_dir():
        raise DataError(f"{path} is a folder.", "Name one sales file: CSV, CSV.gz or Parquet.")
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}).", "Export or copy it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).", "Check the file's permissions.") from error
    if not raw.strip():
        raise DataError(f"{path} is empty.", "Export it again: a header line and one line per sale or day.")
    for magic, what in _MAGIC.items():
        if raw.startswith(magic):
            raise DataError(f"{path} is {what}, not a table of text.", _SAVE_AS)
    return raw


def decode(raw: bytes) -> tuple[str, str]:
    """Text and the name of its encoding.

    A byte-order mark decides; else UTF-16 by its zero bytes, UTF-8 by its strictness, GB18030 where nearly all high
    bytes stand in pairs of the Chinese plane, and Windows-1252 for the rest.

    Raises:
        DataError: The bytes are not text.
    """
    encoding = _encoding_of(raw)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        encoding = "latin-1"
        text = raw.decode(encoding)
    sample = text[:20_000]
    if len(_CONTROL.findall(sample)) > 0.001 * len(sample):
        raise DataError("The file is binary, not a table of text.", _SAVE_AS)
    return text.removeprefix("\ufeff"), encoding


def _encoding_of(raw: bytes) -> str:
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            return encoding
    head = raw[:4000]
    if head[1::2].count(0) > 0.4 * len(head[1::2]):
        return "utf-16-le"
    if head[0::2].count(0) > 0.4 * len(head[0::2]):
        return "utf-16-be"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return "gb18030" if _looks_chinese(raw) else "cp1252"
    return "utf-8"


def _looks_chinese(raw: bytes) -> bool:
    """Whether the high bytes form GB2312 pairs; in Western text most stand alone, or follow an ASCII letter."""
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return False
    runs = [(match.group(1), len(match.group(2))) for match in _HIGH_RUNS.finditer(raw[:400_000])]
    paired = sum(length for _, length in runs if length % 2 == 0)
    after_letter = sum(1 for letter, _ in runs if letter)
    return paired > 0.9 * sum(length for _, length in runs) and after_letter < 0.5 * len(runs)
