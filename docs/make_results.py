"""Write docs/results.md and its picture from a folder that `entrosparse reproduce all` left."""

import shutil
import sys
from pathlib import Path

from entrosparse.reproduce.framework.results import SavedResult, load_results

DOCS = Path(__file__).parent
PICTURES = {"optimization": "elbo", "annealing-fields": "prior-annealing"}


def main(folder: str) -> None:
    results = [result for result in load_results(folder) if result.source]  # Others go beyond the paper.
    scale = {result.scale for result in results}.pop()
    held = [claim.holds for result in results for claim in result.claims]
    lines = [
        "# Results",
        "",
        f"What the paper reports beside what this package finds: {sum(held)} of {len(held)} claims hold.",
        f"`make results` wrote this page, from `entrosparse reproduce all --scale {scale}` on photographs",
        "that come with scikit-image; absolute values of the paper belong to its own images. A run that",
        "several results show counts in the seconds of each.",
        "",
        "| result | the paper says | paper | here | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [row for result in results for row in rows(result)]
    for name, picture in PICTURES.items():
        (result,) = (result for result in results if result.name == name)
        (found,) = (found for found in result.pictures if found.name == picture)
        target = f"results-{name}.png"
        shutil.copy(result.path / f"{found.files[-1]}.png", DOCS / target)
        lines += ["", f"![{result.title}]({target})", "", found.caption]
    lines += ["", "| result | data | seconds |", "| --- | --- | --- |"]
    lines += [f"| {result.name} | {result.data} | {result.seconds:.0f} |" for result in results]
    (DOCS / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows(result: SavedResult) -> list[str]:
    return [
        f"| {result.name if i == 0 else ''} | {cell(claim.statement)} | {cell(claim.paper) or '–'} "
        f"| {cell(claim.ours)} | {'holds' if claim.holds else '**does not hold**'} |"
        for i, claim in enumerate(result.claims)
    ]


def cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    main(*sys.argv[1:])
