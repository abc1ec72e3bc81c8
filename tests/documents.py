"""The Python in the documents, as text and as modules."""

import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def blocks(document: str) -> list[str]:
    """Return the blocks of Python in a document, as they stand."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@cache
def module(document: str, number: int) -> ModuleType:
    """Run a block as a module, and return it."""
    made = ModuleType(f"block_{number}_of_{Path(document).stem}")
    sys.modules[made.__name__] = made  # dataclasses and pickles look their classes up there
    exec(compile(blocks(document)[number], f"{document}, block {number}", "exec"), made.__dict__)
    return made
