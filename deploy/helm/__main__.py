"""`python -m deploy.helm [--check]`: write what is generated from the chart's values, or compare it.

Exit codes: 0 done, or as it should be; 1 something differs; 2 wrong usage, or PyYAML is missing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from deploy.helm.readme import rows, written
from deploy.helm.schema import schema
from deploy.helm.settings import discovered, properties

if TYPE_CHECKING:
    from collections.abc import Sequence

CHART: Final = Path(__file__).with_name("carillon")


def generated(chart: Path = CHART) -> dict[Path, str]:
    """Each generated file with what it should say."""
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    settings = {name: properties(kind) for name, kind in discovered().items()}
    page = chart / "README.md"
    return {
        chart / "values.schema.json": json.dumps(schema(values, settings), indent=1) + "\n",
        page: written(page.read_text(encoding="utf-8"), rows(text, values)),
    }


def main(arguments: Sequence[str]) -> int:
    """See the module's docstring."""
    if list(arguments) not in ([], ["--check"]):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    differs = {path: text for path, text in generated().items() if path.read_text(encoding="utf-8") != text}
    if not arguments:
        for path, text in differs.items():
            path.write_text(text, encoding="utf-8")
        return 0
    for path in differs:
        sys.stderr.write(f"{path.name} does not match values.yaml: run `make schema`.\n")
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
