"""What the site shows beside the pages: pictures, the gallery of models, and with each block its matches and cost.

MkDocs calls the functions `on_...`. Everything is made from recipes and results when the site is built.
"""

import re
from pathlib import Path
from typing import Any

import blocks_page
import gallery
import pictures
import trained
from mkdocs.structure.files import File

ABOVE = re.compile(r"^```yaml\b[^\n]*\n((?:(?!^```).)*?)^```\n\n<!-- diagram: above(?: -- (.*?))? -->$", re.M | re.S)
ROOT = Path(__file__).parents[2]
BROKEN = re.compile(
    r"(?<=[\u3001-\u303f\u4e00-\u9fff\uff00-\uffef“”])\n(?=\*{0,2}[\u3001-\u303f\u4e00-\u9fff\uff00-\uffef“”])"
)
"""The end of a line inside a Chinese sentence, which browsers would show as a space."""
FIGURE = re.compile(r"^<!-- figure: (\w+)(?: -- (.*?))? -->$", re.M)
QUOTED = re.compile(r"^<!-- file: ((?:studies|recipes)/\S+\.yaml) -->$", re.M)
DIAGRAM = re.compile(r"^<!-- diagram: (?P<recipe>\S+)(?P<changes>(?: [\w.]+=\S+)*)(?: -- (?P<caption>.*?))? -->$", re.M)


def on_config(config: Any) -> Any:
    """List the pages of slots and of groups of models in the navigation."""
    slots = [page.stem for page in sorted((Path(config.docs_dir) / "blocks").glob("*.md")) if page.stem != "index"]
    inner = {
        "blocks/index.md": ["blocks/index.md", *({slot: f"blocks/{slot}.md"} for slot in slots)],
        "models.md": [{"All models": "models.md"}, *({name: f"models/{name}.md"} for name in sorted(gallery.groups()))],
    }
    for section in config.nav:
        for entries in section.values():
            for entry in entries if isinstance(entries, list) else []:
                if isinstance(entry, dict):
                    entry |= {
                        title: inner.get(page, page) if isinstance(page, str) else page for title, page in entry.items()
                    }
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the page of each group of models, and what the tour's trained model computes, in both languages."""
    for group in gallery.groups():
        files.append(File.generated(config, f"models/{group}.md", content=gallery.page(group)))
    for folder, language in (("tour", "en"), ("zh", "zh")):
        files.append(File.generated(config, f"{folder}/explained.html", content=trained.page(language)))
    return files


def on_page_context(context: Any, page: Any, config: Any, nav: Any) -> Any:
    """Set the language of a page, and of the theme's own words on it."""
    config.theme["language"] = "zh" if page.file.src_uri.startswith("zh/") else "en"
    return context


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put pictures where a page asks for them, and the parts that are made into generated pages."""
    uri = page.file.src_uri
    if uri.startswith("zh/"):
        markdown = BROKEN.sub("", markdown)
    drawn = pictures.Pictures(uri, config, files)
    if uri.startswith("blocks/") and uri != "blocks/index.md":
        markdown = blocks_page.completed(markdown, page.file.name, drawn)
    elif uri == "changelog.md":  # its links are those of the repository
        return (Path(config.docs_dir).parent / "CHANGELOG.md").read_text().replace("](docs/", "](")
    elif uri == "models.md":
        markdown = gallery.with_cards(markdown, drawn)
    elif uri.startswith("models/"):
        markdown = gallery.with_pictures(markdown, drawn)
    markdown = QUOTED.sub(_quoted, markdown)
    markdown = FIGURE.sub(lambda found: drawn.figure(found[1], found[2] or ""), markdown)
    markdown = ABOVE.sub(lambda found: _beside(found, drawn), markdown)
    return DIAGRAM.sub(lambda found: _diagram(found, drawn), markdown)


def _quoted(found: re.Match[str]) -> str:
    """A file of the repository, folded."""
    lines = (ROOT / found[1]).read_text().splitlines()
    return "\n".join(
        [f'??? note "{found[1]}"', "", "    ```yaml", *(f"    {line}".rstrip() for line in lines), "    ```"]
    )


def _beside(found: re.Match[str], drawn: pictures.Pictures) -> str:
    """A recipe, and beside it the model that it describes."""
    whole, recipe, caption = found[0], found[1], found[2] or ""
    code = whole[: whole.rindex("\n\n<!--")]
    return f'<div class="sides" markdown>\n\n{code}\n\n{drawn.figure_of_text(recipe, caption)}\n\n</div>'


def _diagram(found: re.Match[str], drawn: pictures.Pictures) -> str:
    return drawn.figure_of_model(found["recipe"], found["changes"].split(), found["caption"] or "")
