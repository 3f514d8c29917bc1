"""Bad sales files: each is answered with what was found and what to do, or read with a finding that says so."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest

from trend_client.cli import main
from trend_common.panel import read

DAYS = [date(2024, 1, 1) + timedelta(days=step) for step in range(60)]


def rows(form: str = "{d},A,{n}\n", header: str = "date,product,units\n", days: list[date] = DAYS) -> bytes:
    return (header + "".join(form.format(d=d, n=n % 7 + 1) for n, d in enumerate(days))).encode()


def workbook(header: list[object], body: list[list[object]]) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for line in [header, *body]:
        sheet.append(line)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def parquet(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out)
    return out.getvalue()


def archive(**parts: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return out.getvalue()


FRAME = pd.DataFrame({"date": pd.to_datetime(DAYS), "product": "A", "units": range(60)})
DAMAGED = parquet(FRAME)[:-200]
PLAIN_TEXT = b"Liebe Kollegin,\nanbei die Zahlen.\n"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "blank lines": (b"\n \n\t\n", "is empty"),
    "zero bytes": (bytes(5000), "full of zero bytes"),
    "header only": (b"date,product,units\n", "no rows"),
    "no header": (b"2024-01-01,A,5\n2024-01-02,A,6\n", "no header line"),
    "wrong columns": (b"colour,size,shape\nred,5,round\nblue,6,flat\n", "no date column"),
    "no units": (b"date,product\n2024-01-01,A\n2024-01-02,B\n", "no column of numbers"),
    "prose": (PLAIN_TEXT * 5, "no"),
    "binary": (np.random.default_rng(0).bytes(9000), "binary"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(900), "a picture"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(900), "a picture"),
    "pdf": (b"%PDF-1.7 ...", "a PDF"),
    "zip of a csv": (archive(sales=rows()), "zip archive"),
    "json": (b'[{"date": "2024-01-01", "units": 5}]', "JSON"),
    "html": (b"<!DOCTYPE html><html><table><tr><td>date</td></tr></table>", "a web page"),
    "html named xls": (b"\xef\xbb\xbf<html><body><table>", "a web page"),
    "truncated gzip": (gzip.compress(rows())[:-40], "damaged gzip"),
    "truncated parquet": (DAMAGED, "Parquet file cannot be read"),
    "truncated xlsx": (workbook(["date", "units"], [[d, 3] for d in DAYS])[:-800], "damaged"),
    "formulas without values": (
        workbook(["date", "units"], [[d, f"=2+{n}"] for n, d in enumerate(DAYS)]),
        "60 of 60 formulas",
    ),
    "damaged xls": (OLE + bytes(4000), "workbook cannot be read"),
    "mixed day and month": (
        b"date,units\n" + b"".join(b"13/%02d/2024,1\n%02d/13/2024,1\n" % (m, m) for m in range(1, 13)),
        "mix day-first",
    ),
    "ambiguous day and month": (
        b"date,units\n" + b"".join(b"%02d/%02d/2024,5\n" % (d, m) for m in range(1, 5) for d in range(1, 9)),
        "day first or month first",
    ),
    "dates of 1900": (rows(days=[date(1900, 1, 1) + timedelta(days=n) for n in range(60)]), "cannot be read"),
    "one row": (b"date,product,units\n2024-01-01,A,5\n", "only one date"),
    "one day": (b"date,product,units\n" + b"".join(b"2024-01-01,P%d,5\n" % n for n in range(50)), "only one date"),
    "all zeros": (rows("{d},A,0\n"), "above zero"),
    "all negative": (rows("{d},A,-{n}\n"), "above zero"),
    "no numbers": (rows("{d},A,inf\n"), "no column of numbers"),
    "mixed thousands": (
        rows('{d},A,"1.{n}34,50"\n{d},B,"1,{n}34.50"\n'),
        "are not numbers",
    ),
    "two columns of units": (rows("{d},{n},1{n}\n", "date,units,units\n"), "Several columns could hold the units"),
    "unclosed quote": (rows('{d},"A,{n}\n'), "hold whole lines"),
    "two stray quotes": (
        rows() + b'2024-03-01,"A,5\n' + rows(header="") + b'2024-03-02,A",5\n' + rows(header=""),
        "goes on over",
    ),
    "decimal commas": (rows("{d},A,{n},5\n"), "4 cells, the header has 3"),
    "quarterly": (rows(days=[date(2015 + n // 4, n % 4 * 3 + 1, 1) for n in range(40)]), "quarterly"),
    "names in blocks": (b"date,store,units\n" + b"".join(b"%s,,5\n" % str(d).encode() for d in DAYS), "no store"),
}

READ: dict[str, tuple[bytes, str]] = {
    "duplicated": (rows() + rows(header=""), "duplicate_rows"),
    "negatives": (rows() + b"2024-03-02,A,-5\n", "negative_units"),
    "excel formula": (rows("{d},\"=cmd|' /C calc'!A0\",{n}\n"), "formula_names"),
    "zero bytes within": (rows().replace(b"2024-01-05", b"2024-01-05\0"), "control_characters"),
    "terminal codes": (rows("{d},A\x1b[2J\x1b]0;x\x07,{n}\n"), "padded_text"),
    "windows text": (
        "date;Größe;Menge\n".encode("cp1252")
        + rows("{d};Größe;{n}\n", "").replace("ö".encode(), b"\xf6").replace("ß".encode(), b"\xdf"),
        "encoding",
    ),
    "damaged bytes": (rows("{d},Café,{n}\n") + b"2024-03-01,Caf\xe9,5\n", "broken_characters"),
    "encoded twice": (rows("{d},CafÃ©,{n}\n"), "double_encoded"),
    "future": (rows() + b"2093-01-01,A,5\n", "future_dates"),
    "mistyped year": (rows() + b"1924-01-01,A,5\n2024-03-01,A,5\n", "bad_dates"),
    "infinite": (rows() + b"2024-03-01,A,inf\n2024-03-02,A,1e300\n2024-03-03,A,4\n", "bad_numbers"),
    "not a number": (rows() + b"2024-03-01,A,NaN\n2024-03-02,A,4\n", "unknown_units"),
    "pipes": (rows("{d}|A|{n}\n", "date|product|units\n"), "no_store"),
    "tabs": (rows("{d}\tA\t{n}\n", "date\tproduct\tunits\n"), "no_store"),
    "summary rows": (rows() + b"Total,,240\nGrand total,,480\n", "total_lines"),
    "title": (b"Sales of the north\n\n" + rows(), "title_lines"),
    "ragged": (rows() + b"2024-03-01,A,5,6,7\n", "ragged_lines"),
    "nested parquet": (parquet(FRAME.assign(tags=[["a"]] * 60)), "unused_columns"),
    "far parquet": (
        parquet(FRAME.assign(date=[*FRAME["date"][:-1].astype("datetime64[us]"), np.datetime64("3024-01-01", "us")])),
        "bad_dates",
    ),
    "formulas with values": (b"", "formulas"),
}


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    def runner(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["trend-client", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), captured.out + captured.err

    return runner


Run = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused_with_what_to_do(run: Run, tmp_path: Path, case: str) -> None:
    content, said = REFUSED[case]
    path, out = tmp_path / "sales.csv", tmp_path / "out.json"
    path.write_bytes(content)
    code, text = run("check", "--data", str(path), "--json", str(out))
    assert code == 3, text
    assert pd.Series([text]).str.contains(said, regex=True).item(), text
    assert "Traceback" not in text
    # A hint stands below the message, and nothing was written.
    assert len([line for line in text.strip().splitlines() if line.strip()]) >= 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("case", READ)
def test_an_odd_file_is_read_and_says_so(run: Run, tmp_path: Path, case: str) -> None:
    content, finding = READ[case]
    path, out = tmp_path / "sales.csv", tmp_path / "out.json"
    if case == "formulas with values":
        content = with_values(workbook(["date", "units"], [[d, f"=2+{n}"] for n, d in enumerate(DAYS)]))
    path.write_bytes(content)
    code, text = run("check", "--data", str(path), "--json", str(out))
    assert code == 0, text
    written = json.loads(out.read_text("utf-8"))
    assert finding in {one["code"] for one in written["findings"]}, written["findings"]
    assert "\x1b]0" not in text


def with_values(raw: bytes) -> bytes:
    """The workbook as Excel saves it: each formula with its value."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w") as new:
        for part in old.namelist():
            content = old.read(part)
            if part.endswith("sheet1.xml"):
                content = content.replace(b"<v></v>", b"<v>7</v>").replace(b"<v />", b"<v>7</v>")
            new.writestr(part, content)
    return out.getvalue()


def test_there_are_thirty_and_more() -> None:
    assert len(REFUSED) >= 30


def test_folders_pipes_and_files_that_are_not_there(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path, "is a folder"), (tmp_path / "no.csv", "no file"), (tmp_path / "pipe", "a pipe")):
        code, text = run("check", "--data", str(path))
        assert (code, said in text) == (3, True), text
    code, text = run("check", "--data", str(tmp_path / ("x" * 3000)))
    assert (code, "cannot be read" in text) == (3, True)


def test_no_permission(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sales.csv"
    path.write_bytes(rows())

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)  # root may read everything
    code, text = run("check", "--data", str(path))
    assert code == 3
    assert "Permission denied" in text
    assert "permissions" in text


def test_a_password(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import python_calamine

    def locked(_: object) -> None:
        raise python_calamine.PasswordError("protected")

    path = tmp_path / "sales.xlsx"
    path.write_bytes(OLE + bytes(600))
    monkeypatch.setattr(
        "python_calamine.CalamineWorkbook", type("Locked", (), {"from_filelike": staticmethod(locked)})
    )
    code, text = run("check", "--data", str(path))
    assert code == 3
    assert "password" in text
    assert "Save it without one" in text


def test_a_header_without_an_end_costs_no_memory(tmp_path: Path) -> None:
    """Ten gigabytes of header, as a sparse file: refused on its first megabytes."""
    path = tmp_path / "sales.csv"
    with path.open("wb") as file:
        file.write(b"date,units," * 600_000)
        file.truncate(10 << 30)
    packed = tmp_path / "sales.csv.gz"
    packed.write_bytes(gzip.compress(b"date,units," * 3_000_000, 1))
    program = (
        "import resource, sys; from pathlib import Path; from trend_common.panel import read\n"
        "from trend_common.errors import DataError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        read(Path(name))\n"
        "    except DataError as error:\n        print(error.message)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", program, str(path), str(packed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    first, second, grown = done.stdout.strip().splitlines()
    assert "GiB" in first or "no end within" in first
    assert "no end within" in second
    assert int(grown) < 100_000  # KiB


def test_many_columns_are_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_bytes(b",".join(b"c%d" % n for n in range(60_000)) + b"\n" + b",".join([b"1"] * 60_000))
    code, text = run("check", "--data", str(path))
    assert (code, "columns are read" in text) == (3, True)


def test_names_are_shown_without_what_steers_a_terminal(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_bytes(rows("{d},\x1b[31mRed\u202e,{n}\n"))
    assert read(path).ids == ("all/[31mRed",)
