"""Files of French and Spanish tills and spreadsheets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from trend_common.panel import SalesPanel, read
from trend_common.panel.dates import parse_dates
from trend_common.panel.findings import Report

Writer = Callable[..., Path]
DAYS = [date(2024, 1, 1) + timedelta(days=step) for step in range(60)]


def total(panel: SalesPanel) -> float:
    return float(panel.frame["y"].sum())


def test_a_french_till(write: Writer) -> None:
    body = "".join(
        f"{d:%d/%m/%Y};Lyon;R{k};Café {k};{n % 5};{1000 + n},50;{'oui' if n % 7 == 0 else 'non'};{n}\n"
        for n, d in enumerate(DAYS[:12])
        for k in (1, 2)
    )
    header = "Date de vente;Magasin;Référence;Désignation;Qté vendue;Prix de vente;En promotion;Nb clients"
    panel = read(write(f"{header}\n{body}", encoding="cp1252"))
    assert panel.ids == ("Lyon/R1", "Lyon/R2")
    assert panel.columns["units"] == "Qté vendue"
    # Day first, since the headers are French: no part of these dates is above 12.
    assert (panel.start, panel.end) == (pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-12"))
    assert panel.frame["price"].iloc[0] == 1000.5
    assert panel.frame["promo"].tolist()[:8] == [1, 0, 0, 0, 0, 0, 0, 1]
    assert panel.static.loc["Lyon/R2", "description"] == "Café 2"
    assert "customers_column" in {finding.code for finding in panel.findings}


def test_a_spanish_till(write: Writer) -> None:
    body = "".join(
        f"{d:%d/%m/%Y};Sevilla;A{k};{n % 5};2,5;{'sí' if n % 7 == 0 else 'no'};{n}\n"
        for n, d in enumerate(DAYS)
        for k in (1, 2)
    )
    header = "Fecha;Tienda;Código de producto;Cantidad;Precio unitario;Promoción;Existencias"
    panel = read(write(f"{header}\n{body}TOTAL GENERAL;;;240;;;\n"))
    assert set(panel.columns) == {"date", "store", "product", "units", "price", "promo", "stock"}
    assert total(panel) == 2 * sum(n % 5 for n in range(1, 60))  # the first day has no stock: unknown
    assert panel.frame["promo"].sum() == 2 * 9
    assert "total_lines" in {finding.code for finding in panel.findings}


@pytest.mark.parametrize(
    ("header", "months"),
    [
        (
            "mois;quantité",
            "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        ),
        ("mes;cantidad", "ene feb mar abr may jun jul ago sep oct nov dic"),
    ],
)
def test_month_names(write: Writer, header: str, months: str) -> None:
    rows = [f"{name} {year};{n + 1}" for year in (2022, 2023) for n, name in enumerate(months.split())]
    panel = read(write("\n".join([header, *rows])))
    assert (panel.freq, len(panel.frame), panel.end) == ("M", 24, pd.Timestamp("2023-12-01"))
    assert total(panel) == 2 * 78


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("lundi 1er janvier 2024", "2024-01-01"),
        ("mar. 15 2024", "2024-03-15"),
        ("mardi 02/01/2024", "2024-01-02"),
        ("dim. 14 juil. 2024", "2024-07-14"),
        ("15 déc. 2024 14h30", "2024-12-15"),
        ("miércoles, 31 de enero de 2024", "2024-01-31"),
        ("5 de agosto del 2024", "2024-08-05"),
        ("29-dic-24", "2024-12-29"),
        ("S05 2024", "2024-01-29"),
    ],
)
def test_days_in_words(text: str, day: str) -> None:
    parsed = parse_dates(pd.Series([text]), "date", Report(), day_first=True)
    assert parsed.days[0] == pd.Timestamp(day)


def test_a_french_column_per_date(write: Writer) -> None:
    header = ";".join(["Magasin", "Produit", *(f"{d:%d/%m/%Y}" for d in DAYS), "Total"])
    rows = [f"Nice;P{k};" + ";".join(f"{k},5" for _ in DAYS) + ";0" for k in (1, 2)]
    panel = read(write("\n".join([header, *rows])))
    assert panel.ids == ("Nice/P1", "Nice/P2")
    assert panel.frame["y"].unique().tolist() == [1.5, 2.5]
    assert panel.end == pd.Timestamp("2024-02-29")
