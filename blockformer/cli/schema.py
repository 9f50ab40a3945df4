"""`blockformer schema`: JSON Schemas of recipes and studies, and the block reference, from what is registered."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from blockformer.cli.parser import Parser, file_ending


def main(arguments: Sequence[str]) -> int:
    """Print the JSON Schema, or write it and the block reference to files."""
    parser = _parser()
    options = parser.parse_args(arguments)
    import blockformer.data.datasets
    import blockformer.data.tokenizers
    import blockformer.training.evaluations
    import blockformer.training.objectives
    import blockformer.training.optimizers  # noqa: F401
    import blocks  # noqa: F401  (importing registers; imported late: --help then needs no torch)
    from blockformer.files import write_text
    from registry.schema import schema

    text = json.dumps(schema(), indent=1) + "\n"
    files = {options.out: text} if options.out else {}
    if options.studies:
        from blockformer.studies.schema import study_schema

        files[options.studies] = json.dumps(study_schema(), indent=1) + "\n"
    if options.reference:
        from blockformer.reference.pages import pages

        files |= {options.reference / name: page for name, page in pages().items()}
    for path, content in files.items():
        try:
            write_text(path, content)
        except OSError as error:
            parser.error(f"cannot write {path}: {error.strerror}")
    if not files:
        sys.stdout.write(text)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer schema",
        description="Print the JSON Schema of recipes. Editors use it to complete, explain and check recipes.",
        epilog="First line of a recipe or a study, for editors: `# yaml-language-server: $schema=FILE`.\n"
        "With --plugin, schema and reference include the blocks of the plug-in.",
    )
    file = file_ending(".json")
    parser.add_argument(
        "--out", type=file, metavar="FILE.json", help="write the schema to this file; default: standard output"
    )
    parser.add_argument(
        "--studies", type=file, metavar="FILE.json", help="write the schema of study files to this file"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FOLDER",
        help="write the block reference to this folder, one page for each slot",
    )
    return parser
