"""Write docs/results.md and its pictures from a folder that `entrosparse reproduce all` left.

Results at the paper's scale have the page docs/results-paper.md, which tells of those that the folder holds.
"""

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
    page, title, which = "results", "Results", ""
    if scale == "paper":
        page, title = "results-paper", "Results at the paper's size"
        which = " Of the results of the [smaller size](results.md), it shows those that were run."
    lines = [
        f"# {title}",
        "",
        f"What the paper reports beside what this package finds: {sum(held)} of {len(held)} claims hold.",
        f"`make results SCALE={scale}` wrote this page, from `entrosparse reproduce` on photographs",
        "that come with scikit-image; absolute values of the paper belong to its own images. A run that",
        f"several results show counts in the seconds of each.{which}",
        "",
        "| result | the paper says | paper | here | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [row for result in results for row in rows(result)]
    for result in results:
        if result.name not in PICTURES:
            continue
        (found,) = (found for found in result.pictures if found.name == PICTURES[result.name])
        target = f"{page}-{result.name}.png"
        shutil.copy(result.path / f"{found.files[-1]}.png", DOCS / target)
        lines += ["", f"![{result.title}]({target})", "", found.caption]
    lines += ["", "| result | data | seconds |", "| --- | --- | --- |"]
    lines += [f"| {result.name} | {result.data} | {result.seconds:.0f} |" for result in results]
    (DOCS / f"{page}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


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
