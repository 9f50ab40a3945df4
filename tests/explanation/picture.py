"""Draw `docs/explain.png`, the page of the decoder of `make explain`: `python -m tests.explanation.picture`."""

import base64
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from blockformer.demo.explain import TEXT
from blockformer.explanation import explain
from blockformer.explanation.page import write_page
from tests.studies.browser import CHROMIUM, browser

OUT = Path(__file__).parents[2] / "docs" / "explain.png"
QUERY, KEY = " eats", "cat"
SHOW = """(async () => {{
  setLayer("decoder", {layer}); setHead({head}); follow({{text: 0, index: {query}}}); goTo({number}, false);
  await new Promise(done => setTimeout(done, 500));
  const own = cards.find(one => one.step.number === {number}).owns.find(one => one.small === undefined);
  own.cursor = {{row: {query}, column: {key}}}; redraw(own); inspect(own);
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
}})()"""


def main(arguments: Sequence[str]) -> int:
    """Draw the head that attends most from "eats" to "cat", in the newest run or in the one that is named."""
    runs = [Path(one) for one in arguments] or sorted(Path("runs").glob("tiny_decoder-*"))
    if not runs or CHROMIUM is None:
        print("run `make explain` first, and install chromium", file=sys.stderr)
        return 2
    explanation = explain(runs[-1], TEXT)
    tokens = [token.text for token in explanation.texts[0]]
    query, key = tokens.index(QUERY), tokens.index(KEY)
    number, head = max(
        ((place, head) for place, step in enumerate(explanation.steps) if step.name == "weights" for head in range(4)),
        key=lambda one: float(explanation.steps[one[0]].value.data[one[1], query, key]),
    )
    with TemporaryDirectory() as folder, browser() as tab:
        page = Path(folder) / "page.html"
        write_page(page, explanation)
        tab.open(page, width=1200)
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        tab.run(SHOW.format(layer=explanation.steps[number].layer, head=head, number=number, query=query, key=key))
        OUT.write_bytes(base64.b64decode(tab.call("Page.captureScreenshot")["data"]))
    weight = float(explanation.steps[number].value.data[head, query, key])
    print(f"{OUT}: layer {explanation.steps[number].layer}, head {head}, weight {weight:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
