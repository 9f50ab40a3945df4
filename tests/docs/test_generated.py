"""Files that are made from the blocks are those that the blocks would make now; `make schema` writes them anew."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import blockformer as bf
import registry
from blockformer.cli.recipes import page
from blockformer.reference.pages import IN_A_MODEL
from registry.strict_yaml import parse_text
from tests.docs.snippets import ROOT, snippets
from tests.recipes.releases import RELEASES


def examples_of(slot: str, *, in_a_model: bool = False) -> list[dict[str, Any]]:
    """The YAML of a page of the reference: blocks with their defaults, or whole recipes."""
    page = (ROOT / "docs" / "blocks" / f"{slot}.md").read_text()  # which is not stale, by a test
    found = [snippet for snippet in snippets(page) if snippet.language == "yaml"]
    return [parse_text(snippet.code, slot) for snippet in found if (snippet.title == IN_A_MODEL) is in_a_model]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the command writes, in a process of its own, where no test has registered a block."""
    folder = tmp_path_factory.mktemp("made")
    command = [sys.executable, "-m", "blockformer.cli.main", "schema"]
    options = ["--out", str(folder / "schema.json"), "--reference", str(folder / "blocks")]
    options += ["--studies", str(folder / "studies.json")]
    subprocess.run([*command, *options], cwd=ROOT, check=True)
    return folder


def test_the_schema_is_not_stale(made: Path) -> None:
    assert (ROOT / "recipes" / "schema.json").read_text() == (made / "schema.json").read_text()


def test_the_schema_of_studies_is_not_stale(made: Path) -> None:
    assert (ROOT / "studies" / "schema.json").read_text() == (made / "studies.json").read_text()


def test_no_page_of_the_block_reference_is_stale(made: Path) -> None:
    stored = {path.name: path.read_text() for path in (ROOT / "docs" / "blocks").glob("*")}
    assert stored == {path.name: path.read_text() for path in (made / "blocks").iterdir()}
    assert set(stored) == {"index.md", *(f"{slot}.md" for slot in [*registry.slots(), *registry.option_slots()])}


def test_the_page_of_models_is_not_stale() -> None:
    # what a published model's recipe builds is compared with these elsewhere
    sizes = {release.name: release.parameters for release in RELEASES}
    sizes |= {
        name: bf.check(registry.load_recipe(name)).size for name in registry.builtin_recipes() if name not in sizes
    }
    assert (ROOT / "docs" / "models.md").read_text() == page(sizes)


def test_the_example_of_every_dataset_has_its_defaults() -> None:
    examples = [example["data"] for example in examples_of("dataset")]
    assert {example["dataset"] for example in examples} == set(registry.entries("dataset"))
    for example in examples:
        given = {"type": example.pop("dataset"), **example}
        assert registry.parse("dataset", given).dump() == registry.parse("dataset", given["type"]).dump()


@pytest.mark.parametrize("slot", registry.slots())
def test_the_example_of_every_block_builds_that_block_with_its_defaults(slot: str) -> None:
    examples = examples_of(slot)
    trees = examples if slot == "model" else [tree for example in examples for tree in example.values()]
    trees = [tree[0] if isinstance(tree, list) else tree.get("NAME", tree) for tree in trees]  # a list, or by name
    assert {tree["type"] for tree in trees} == set(registry.entries(slot))
    for tree in trees:
        written = registry.parse(slot, registry.strict_yaml.as_plain(tree))
        assert written.dump() == registry.parse(slot, tree["type"]).dump()


@pytest.mark.parametrize("slot", registry.slots())
def test_every_block_is_shown_in_a_model_that_builds(slot: str) -> None:
    recipes = [registry.load_recipe(tree) for tree in examples_of(slot, in_a_model=True)]
    assert len(recipes) == len(registry.entries(slot))
    for name, recipe in zip(sorted(registry.entries(slot)), recipes, strict=True):
        bf.check(recipe)
        assert (slot, name) in {(spec.entry.slot, spec.entry.name) for _, spec in recipe.spec.walk()}
