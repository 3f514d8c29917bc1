"""``trend-client mask`` and ``unmask``: a table under names that say nothing, and back again at home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trend_client.options import HomeOption, VerboseOption

if TYPE_CHECKING:
    import pandas as pd

    from trend_common.masking import Mask

__all__ = ["mask_table", "register", "unmask"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("mask")(_mask)
    app.command("unmask")(_unmask)


def _mask(
    file: Annotated[Path, typer.Argument(help="A table that was written here: CSV or Parquet.")],
    home: HomeOption = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: beside it, with .masked.")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Write a table under masked names, for sharing; the key stays in this home. Offline."""
    from trend_client.home import default_home
    from trend_common.console import console
    from trend_common.masking import Mask

    target = out or file.with_suffix(f".masked{file.suffix}")
    mask_table(file, target, Mask((home or default_home()).expanduser()))
    console.print(f"Wrote {target}. Its figures are as they were.", soft_wrap=True, markup=False)


def mask_table(file: Path, out: Path, mask: Mask) -> None:
    """Write the table ``file`` to ``out`` under masked names.

    Raises:
        UsageError: The file is not there, is no CSV or Parquet, or has no column of names.
    """
    import pandas as pd

    from trend_common.errors import UsageError

    if not file.is_file() or file.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"There is no CSV or Parquet file {file}.", "Name a table such as orders.csv.")
    try:
        parquet = file.suffix.lower() == ".parquet"
        table = pd.read_parquet(file) if parquet else pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}.", "Name a table such as orders.csv.") from error
    if not {"unique_id", "store", "product"} & set(table.columns):
        raise UsageError(f"{file} has no column of names.", "It needs unique_id, store or product.")
    _write(mask.frame(table), out)


def _unmask(
    file: Annotated[Path, typer.Argument(help="A masked CSV, Parquet, Excel, JSON or HTML file.")],
    home: HomeOption = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: beside it, with .unmasked.")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Give a masked file its names back, with the list of masks of this home. Offline."""
    from trend_client.home import default_home
    from trend_common.console import console
    from trend_common.masking import Mask

    target = out or file.with_suffix(f".unmasked{file.suffix}")
    unmask(file, target, Mask((home or default_home()).expanduser()))
    console.print(f"Wrote {target}.", soft_wrap=True, markup=False)


def unmask(file: Path, out: Path, mask: Mask) -> None:
    """Write ``file`` to ``out`` with its names, readable by its owner alone.

    Raises:
        UsageError: The file is not there, of another kind, cannot be read, or holds no mask of this home.
    """
    from trend_common.errors import UsageError
    from trend_common.files import write_text

    if not file.is_file():
        raise UsageError(f"There is no file {file}.", "Name a file that was written with --mask.")
    kind = file.suffix.lower()
    try:
        if kind in (".csv", ".parquet", ".xlsx"):
            changed = _table(file, out, kind, mask)
        elif kind in (".html", ".json", ".txt", ".md"):
            text = file.read_text("utf-8")
            if kind == ".json":
                revealed = json.dumps(_json(json.loads(text), mask), indent=2, ensure_ascii=False) + "\n"
            else:
                revealed = mask.reveal(text, markup=kind == ".html")
            changed = revealed != text and mask.reveal(text) != text
            if changed:
                write_text(out, revealed, private=True)
        else:
            raise UsageError(f"{file} is of no kind that is masked.", "CSV, Parquet, Excel, JSON or HTML.")
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}.", "Name a file that was written with --mask.") from error
    if not changed:
        raise UsageError(
            f"{file} holds no mask that this home gave.", "Masks can be turned back at home alone: --home."
        )


def _table(file: Path, out: Path, kind: str, mask: Mask) -> bool:
    import pandas as pd

    if kind == ".parquet":
        table = pd.read_parquet(file)
    elif kind == ".csv":
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    else:
        table = pd.read_excel(file)
    revealed = mask.reveal_frame(table)
    if revealed.equals(table):
        return False
    _write(revealed, out)
    return True


def _write(table: pd.DataFrame, out: Path) -> None:
    from trend_common.files import replacing
    from trend_common.spreadsheet import safe_frame

    with replacing(out, private=True) as temporary:
        if out.suffix.lower() == ".parquet":
            table.to_parquet(temporary, index=False)
        elif out.suffix.lower() == ".xlsx":
            safe_frame(table).to_excel(temporary, index=False)
        else:
            safe_frame(table).to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def _json(value: Any, mask: Mask) -> Any:
    if isinstance(value, str):
        return mask.reveal(value)
    if isinstance(value, list):
        return [_json(one, mask) for one in value]
    if isinstance(value, dict):
        return {mask.reveal(str(key), encode=True): _json(one, mask) for key, one in value.items()}
    return value
