"""What claims came to, as Markdown: for the screen, the run folder and the documentation."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.evidence.claims.claim import Claim, Judged
from pipelines.evidence.verdicts import UNDECIDED, Verdict


def section(claim: Claim, judged: Judged, pictures: Mapping[str, str], cost: str) -> str:
    """A claim's part of the page. `pictures`: title -> path; `cost`: what it took."""
    parts = [f"## {claim.title}"]
    parts.append(f"{claim.paper}. **Claimed**: {claim.says}")
    parts.append(f"**Here**: {claim.setting}")
    parts.append(verdict_table(judged.verdicts))
    for title, path in pictures.items():
        parts.append(f"![{title}]({path})")
    for title, table in judged.tables.items():
        parts.append(f"*{title[0].upper()}{title[1:]}*")
        parts.append(as_markdown(table))
    parts += [f"- {remark}" for remark in judged.remarks]
    parts.append(cost)
    return "\n\n".join(parts).replace("\n\n- ", "\n- ").replace("|\n- ", "|\n\n- ")


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """A row for each verdict."""
    rows: list[dict[str, object]] = []
    for verdict in verdicts:
        rows.append(
            {
                "question": verdict.question,
                "verdict": f"**{verdict.says}**" + verdict.in_words.removeprefix(verdict.says),
                "difference, 95 % interval": interval(verdict),
                "figures": verdict.figures,
            }
        )
    return as_markdown(pl.DataFrame(rows))


def interval(verdict: Verdict) -> str:
    """A verdict's difference, with its interval and unit."""
    value = verdict.value
    digits = 2 if verdict.unit in ("nat", "s") else 3
    low, high = f"{value.low:+.{digits}f}", f"{value.high:+.{digits}f}"
    return f"{value.mean:+.{digits}f} ({low} to {high}) {verdict.unit}"


def as_markdown(table: pl.DataFrame) -> str:
    """A table in Markdown."""
    lines = [_row(table.columns), _row(["---"] * len(table.columns))]
    for row in table.rows():
        lines.append(_row(["–" if value is None else value for value in row]))
    return "\n".join(lines)


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


# Where a page of the documentation has what was found.
_PART = re.compile(r"(<!-- generated: evidence -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = "pages"
PICTURES = "pictures"


def put(out: Path, claim: str, text: str) -> None:
    """Keep a claim's part of the page."""
    (out / PAGES).mkdir(exist_ok=True)
    (out / PAGES / f"{claim}.md").write_text(text + "\n", encoding="utf-8")


def put_into(document: Path, out: Path, names: Sequence[str]) -> list[str]:
    """Put what was found into a page of the documentation, with its pictures beside; the claims that it has.

    `names`: of all claims, in their order; those that were not tried yet are left out."""
    tried = [name for name in names if (out / PAGES / f"{name}.md").exists()]
    parts = [all_verdicts(pl.read_parquet(out / "tables" / "verdicts.parquet"), tried)]
    for name in tried:
        parts.append((out / PAGES / f"{name}.md").read_text(encoding="utf-8").strip())
    for picture in (out / PICTURES).glob("*.png"):
        shutil.copyfile(picture, document.parent / PICTURES / picture.name)
    found = "\n\n".join(parts)
    text = document.read_text(encoding="utf-8")
    document.write_text(_PART.sub(lambda part: f"{part[1]}\n{found}\n\n{part[2]}", text), encoding="utf-8")
    return tried


def all_verdicts(verdicts: pl.DataFrame, names: Sequence[str]) -> str:
    """The table of all verdicts, claim by claim."""
    rows: list[dict[str, object]] = []
    for name in names:
        for row in verdicts.filter(pl.col("claim") == name).iter_rows(named=True):
            digits = 2 if row["unit"] in ("nat", "s") else 3
            span = f"{row['low']:+.{digits}f} to {row['high']:+.{digits}f}"
            rows.append(
                {
                    "claim": name,
                    "question": row["question"],
                    "verdict": f"**{row['verdict']}**",
                    "difference": f"{row['mean']:+.{digits}f} {row['unit']}",
                    "95 % interval": span,
                    "seeds": row["seeds"],
                    "would decide": _seeds_to_decide(row),
                }
            )
    return "## All verdicts\n\n" + as_markdown(pl.DataFrame(rows, infer_schema_length=None, strict=False))


def _seeds_to_decide(row: Mapping[str, Any]) -> object:
    if row["verdict"] != UNDECIDED:
        return "–"
    return row["seeds_to_decide"] or "> 1,000"
