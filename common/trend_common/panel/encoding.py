"""From a file's bytes to text: compression, formats that only look like a table, and the encoding."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from pathlib import Path
from typing import BinaryIO, Final

from trend_common.errors import DataError

__all__ = ["HEAD", "SAVE_AS", "as_utf8", "read_bytes"]

HEAD: Final = 4 << 20
"""Bytes within which the first line must end; enough for a column for each of some 100,000 products."""

MOST_BYTES: Final = 4 << 30
"""The largest file, unpacked, that is read: some hundred million rows."""

_MAGIC: Final = {
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"SQLite format 3": "an SQLite database",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"BZh": "a bzip2 archive",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\xfd7zXZ": "an xz archive",
    b"PARE": "an encrypted Parquet file",
    b"ARROW1": "an Arrow or Feather file",
}
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LETTERS: Final = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")
_HIGH_RUNS: Final = re.compile(rb"([A-Za-z]?)([\x80-\xff]+)")
_CONTROL: Final = re.compile(r"[\x00-\x06\x08\x0e-\x1a\x1c-\x1f]")
_MARKUP: Final = re.compile(rb"\s*<(?:!doctype|\?xml|html|table|head|body|div|meta|style)", re.IGNORECASE)
_JSON: Final = re.compile(rb'\s*(?:\{\s*["}]|\[\s*(?:[\[{"\]]|-?\d))')
_BLANK: Final = b"\x00\x09\x0a\x0d\x20"
_FEW: Final = 0.02
SAVE_AS: Final = "Save it as CSV (in Excel: File, Save as, CSV UTF-8), as an Excel workbook (.xlsx) or as Parquet."


def read_bytes(path: Path) -> bytes:
    """The file's bytes, gunzipped if they are gzip (told by content, not by name).

    Its first bytes are judged before the rest is read: a file that cannot be a table costs no memory.

    Raises:
        DataError: No such file, a directory, not readable, empty, too large, a broken archive, a known format that is
            no table, or a first line without an end.
    """
    try:
        if not path.exists():
            raise DataError(f"There is no file {path}.", "Check the path after --data.")
        if path.is_dir():
            raise DataError(f"{path} is a folder.", "Name one sales file: CSV, CSV.gz, Parquet or Excel.")
        if not path.is_file():
            raise DataError(f"{path} is a pipe or a device, not a file.", "Save the export to a file and name that.")
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed and path.stat().st_size > MOST_BYTES:
                raise _too_large(path)
            return _judged(path, gzip.GzipFile(fileobj=file) if packed else file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}).", "Export or copy it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).", "Check the path and permissions.") from error
    except MemoryError as error:
        raise DataError(f"{path} does not fit into this machine's memory.", _SPLIT) from error


_SPLIT: Final = "Split it, by store or by year, or export fewer columns."


def _too_large(path: Path) -> DataError:
    return DataError(f"{path} has more than {MOST_BYTES >> 30} GiB.", _SPLIT)


def _judged(path: Path, stream: BinaryIO | gzip.GzipFile) -> bytes:
    head = stream.read(HEAD)
    if not head.strip(_BLANK):
        what = "is empty" if not head.strip() else "is full of zero bytes"
        raise DataError(f"{path} {what}.", "Export it again: a header line and one line per sale or day.")
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path} is {what}, not a table.", SAVE_AS)
    for pattern, what in ((_MARKUP, "a web page or XML"), (_JSON, "JSON")):
        if pattern.match(head.removeprefix(codecs.BOM_UTF8)):
            raise DataError(f"{path} is {what}, not a table, whatever its name says.", SAVE_AS)
    binary = head.startswith((b"PAR1", b"PK\x03\x04", b"\xd0\xcf\x11\xe0"))
    if len(head) == HEAD and not binary and b"\n" not in head and b"\r" not in head:
        raise DataError(
            f"The first line of {path} has no end within {HEAD >> 20} MiB: it is no header.",
            "Export a table with one line for the header and one per sale or day.",
        )
    if len(head) < HEAD:
        return head
    if isinstance(stream, gzip.GzipFile):
        whole = io.BytesIO()
        whole.write(head)
        while part := stream.read(HEAD):
            whole.write(part)
            if whole.tell() > MOST_BYTES:
                raise _too_large(path)
        return whole.getvalue()
    stream.seek(0)
    return stream.read()


def as_utf8(raw: bytes) -> tuple[bytes, str, int]:
    """The same text in UTF-8 without a byte-order mark, the name of its encoding, and how many bytes were no text.

    A byte-order mark decides; else UTF-16 by its zero bytes, UTF-8 by its strictness (but for a few broken bytes),
    GB18030 where nearly all high bytes stand in pairs of the Chinese plane, and Windows-1252 for the rest.

    Raises:
        DataError: The bytes are not text.
    """
    encoding, broken = _encoding_of(raw)
    if encoding in ("utf-8", "utf-8-sig"):
        text = raw.removeprefix(codecs.BOM_UTF8)
        if broken:
            text = text.decode("utf-8", errors="replace").encode()
    else:
        try:
            decoded = raw.decode(encoding)
        except UnicodeDecodeError:
            encoding = "latin-1" if encoding == "cp1252" else encoding
            decoded = raw.decode(encoding, errors="replace")
            broken = decoded.count("\ufffd")
        text = decoded.removeprefix("\ufeff").encode("utf-8", errors="replace")
    sample = text[:20_000].decode("utf-8", errors="ignore")
    if len(_CONTROL.findall(sample)) > 0.01 * len(sample):
        raise DataError("The file is binary, not a table of text.", SAVE_AS)
    return text, encoding, broken


def _encoding_of(raw: bytes) -> tuple[str, int]:
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            return encoding, _broken(raw) if encoding == "utf-8-sig" else 0
    head = raw[:4000]
    if head[1::2].count(0) > 0.4 * len(head[1::2]):
        return "utf-16-le", 0
    if head[0::2].count(0) > 0.4 * len(head[0::2]):
        return "utf-16-be", 0
    broken = _broken(raw)
    if not broken:
        return "utf-8", 0
    if _looks_chinese(raw):
        return "gb18030", 0
    # A lone byte of Western text is broken UTF-8; where nearly all others are whole, some bytes were damaged.
    whole = len(_LETTERS.findall(raw[:HEAD]))
    few = whole >= 5 and broken <= max(1, _FEW * whole)
    return ("utf-8", broken) if few else ("cp1252", 0)


def _broken(raw: bytes) -> int:
    """Places that are no UTF-8; 0 without a copy of the text for the files that are whole."""
    try:
        codecs.utf_8_decode(raw, "strict", True)
    except UnicodeDecodeError:
        return raw.decode("utf-8", errors="replace").count("\ufffd") - raw.count("\ufffd".encode())
    return 0


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
