"""Every command and snippet of the documentation does what the page says."""

from pathlib import Path

import pytest

from tests.docs.snippets import ROOT, Page, Snippet, agrees, conversation, needs_shell, snippets

TOUR = [path for folder in ("tour", "zh") for path in sorted((ROOT / "docs" / folder).glob("*.md"))]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *TOUR]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]

LONG = {
    "docs/add-a-block.md",
    "docs/add-a-mixer.md",
    "docs/inspect.md",
    "docs/explain.md",
    "docs/add-a-family.md",
}  # also without training
LONG |= {f"docs/tour/{name}.md" for name in ("index", "models", "attention")}


def fast(found: list[Snippet]) -> list[Snippet]:
    """The snippets before the first that trains."""
    slow = next((index for index, snippet in enumerate(found) if snippet.slow), len(found))
    return found[:slow]


def tell(name: str, found: list[Snippet], folder: Path) -> None:
    page = Page(folder)
    for snippet in found:
        try:
            page.check(snippet)
        except Exception as error:
            raise AssertionError(f"{name}:{snippet.line}: {error}") from error


TRAIN = [name for name in NAMES if any(snippet.slow for snippet in snippets((ROOT / name).read_text()))]
WITHOUT_TRAINING = [name for name in NAMES if name not in LONG or name not in TRAIN]  # the others run whole, below


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in WITHOUT_TRAINING]
)
def test_a_page_does_what_it_says(name: str, tmp_path: Path) -> None:
    tell(name, fast(snippets((ROOT / name).read_text())), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAIN)
def test_a_page_that_trains_does_what_it_says(name: str, tmp_path: Path) -> None:
    tell(name, snippets((ROOT / name).read_text()), tmp_path)


def test_a_snippet_is_found_with_its_mark_and_title() -> None:
    text = 'x\n<!-- wrong -->\n```yaml title="a.yaml"\na: 1\n```\n'
    assert snippets(text) == [Snippet("yaml", "wrong", "a.yaml", "a: 1\n", 4)]


@pytest.mark.parametrize("text", ["```\nx\n```\n", "  ```bash\nx\n  ```\n", "```cobol\nx\n```\n"])
def test_a_snippet_that_would_be_overlooked_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"fence|language"):
        snippets(text)


def test_a_conversation_is_split_into_commands_and_answers() -> None:
    assert list(conversation("$ a b\nc\nd\n$ e \\\n> f\n")) == [("a b", "c\nd\n"), ("e  f", "")]


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a\nb\n", "a\nb", True),
        ("a\n...\nb\n", "a\n1\n2\nb\n", True),
        ("hash 1...\n", "hash 12\n", True),
        ("a\n", "a\nb\n", False),
        ("a.c\n", "abc\n", False),
    ],
)
def test_an_answer_must_be_the_same_but_for_an_ellipsis(expected: str, printed: str, same: bool) -> None:
    assert agrees(expected, printed) is same


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("blockformer show gpt2 --set decoder.depth=3", False),
        ("""blockformer fit --data.files 'a/*.txt' --data.eos_token '<|end|>' --recipe.x "{'*': 1}" """, False),
        ("blockformer runs --format json > runs.json", True),
        ("mkdir -p runs && blockformer runs", True),
        ("blockformer check *.yaml", True),
        ('blockformer show "$RECIPE"', True),
    ],
)
def test_only_what_bash_would_change_needs_it(command: str, needed: bool) -> None:
    assert needs_shell(command) is needed


WRONG = [
    Snippet("yaml", "", "", "type: decoder_only\ndmi: 3\n", 1),
    Snippet("yaml", "fragment of gpt2 at decoder", "", "dept: 3\n", 1),
    Snippet("python", "", "", "1 / 0\n", 1),
    Snippet("bash", "", "", "blockformer check no_such_recipe\n", 1),
    Snippet("bash", "", "", "make no-such-target\n", 1),
    Snippet("console", "", "", "$ blockformer --version\nblockformer 0\n", 1),
]


@pytest.mark.parametrize("snippet", WRONG, ids=[f"{s.language} {s.code.splitlines()[0]}" for s in WRONG])
def test_a_wrong_snippet_is_noticed(snippet: Snippet, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, ValueError)):
        Page(tmp_path).check(snippet)
