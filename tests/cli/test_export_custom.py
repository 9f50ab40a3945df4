"""`blockformer export --custom`: a folder that works without blockformer."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import blockformer as bf
from blockformer import build
from blockformer.assembly.checkpoint import FORMAT
from blockformer.cli.main import main
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import UserError
from blockformer.generation import greedy, stream
from blockformer.huggingface.custom import isolated_process
from blockformer.huggingface.custom.copied_modules import CopiedModules
from blockformer.huggingface.custom.modeling_code import modeling_code
from registry import entries, load_recipe, slots

ROOT = Path(__file__).parents[2]


def checkpoint(recipe: str | Mapping[str, Any], path: Path, tokenizer: Any = None) -> Path:
    loaded = load_recipe(recipe)
    model = build(loaded, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    about = {"format": FORMAT, "recipe": loaded.dump(), "kind": model.kind, "tokenizer": tokenizer}
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "blockformer": about}, path)
    return path


def export(path: Path, out: Path, *more: str) -> int:
    return main(["export", str(path), "--to", "hf", "--custom", "--out", str(out), *more])


PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(isolated_process.__file__).parent)!r})
import isolated_process
sys.path.pop(0)
sys.meta_path.insert(0, isolated_process.BlockedImports(["blocks", "registry", "blockformer", "their_blocks"]))
import json, torch, transformers as hf
hf.logging.set_verbosity_error()
folder = sys.argv[1]
"""


def run_isolated(program: str, folder: Path, place: Path) -> Any:
    """The JSON that a program prints in a process with transformers, but without blockformer."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(place / "modules"), "HF_HUB_OFFLINE": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, str(folder)],
        cwd=place, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    ["tiny_encoder", "tiny_hybrid", "tiny_experts", "tiny_local_global", "demo_lm_no_feedforward", "demo_translation"],
)
def test_every_recipe_can_be_exported_with_its_own_code(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export(checkpoint(recipe, tmp_path / "model.ckpt", ByteTokenizer().dump()), out) == 0
    said = capsys.readouterr().out
    assert "largest relative difference of the logits: " in said
    assert "tokenizer: 38 texts compared, all ids agree" in said
    assert load_recipe(out / "recipe.yaml").hash == load_recipe(recipe).hash


DECODER = """
model = hf.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = hf.AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=True)
ids = tokenizer(["Once more", "a"], return_tensors="pt", padding=True)
whole = model(**ids, labels=ids.input_ids.masked_fill(ids.attention_mask == 0, -100))
options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
made = {str(cache): model.generate(**ids, use_cache=cache, **options).tolist() for cache in (True, False)}
beams = [model.generate(**ids, use_cache=cache, num_beams=3, **options).tolist() for cache in (True, False)]
first = model(input_ids=ids.input_ids[:, :4], attention_mask=ids.attention_mask[:, :4], use_cache=True)
rest = model(input_ids=ids.input_ids[:, 4:], attention_mask=ids.attention_mask, past_key_values=first.past_key_values)
apart = (torch.cat([first.logits, rest.logits], 1) - whole.logits)[ids.attention_mask.bool()].abs().max().item()
hf.PreTrainedModel.save_pretrained(model, folder + "-again")
again = hf.AutoModelForCausalLM.from_pretrained(folder + "-again", trust_remote_code=True)
print(json.dumps({
    "made": made, "beams": beams, "loss": whole.loss.item(), "apart": apart, "start": ids.input_ids.tolist(),
    "again": torch.equal(again(**ids).logits, whole.logits), "eager": str(model.dtype),
}))
"""


@pytest.mark.slow
def test_a_decoder_generates_with_and_without_the_cache(tmp_path: Path) -> None:
    path, out = checkpoint("tiny_hybrid", tmp_path / "model.ckpt", ByteTokenizer().dump()), tmp_path / "out"
    assert export(path, out, "--no-verify") == 0
    said = run_isolated(DECODER, out, tmp_path)
    model = bf.load(path)
    for row, start in enumerate(said["start"]):
        begin = [token for token in start if token]
        written = [token for (token,) in stream(model, [begin], max_new_tokens=12, choose=greedy)]
        assert said["made"]["True"][row] == said["made"]["False"][row] == start + written
    assert said["beams"][0] == said["beams"][1]
    assert said["apart"] < 1e-4
    assert said["again"]
    tokens = torch.tensor(said["start"])
    logits = model(tokens, attention_mask=tokens > 0)
    labels = tokens[:, 1:].masked_fill(tokens[:, 1:] == 0, -100).flatten()
    assert said["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels).item())


BESIDE = """
import json, sys, torch, transformers as hf
import blockformer as bf
ours = bf.load(sys.argv[2])
ids = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(0))
before = ours(ids)
theirs = hf.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
for logits in (theirs(ids).logits, ours(ids)):
    logits.square().mean().backward()
slopes = [[p.grad for p in model.parameters() if p.grad is not None] for model in (ours, theirs)]
same = all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*slopes, strict=True))
libraries = {name.split("::")[0] for name in torch._C._dispatch_get_all_op_names() if "grouped_linear" in name}
print(json.dumps({"same": same, "equal": torch.equal(before, ours(ids)), "libraries": len(libraries)}))
"""


@pytest.mark.slow
def test_an_exported_copy_leaves_the_operators_of_the_blocks_alone(tmp_path: Path) -> None:
    path, out = checkpoint("tiny_experts", tmp_path / "model.ckpt"), tmp_path / "out"
    assert export(path, out, "--no-verify") == 0
    answer = subprocess.run(
        [sys.executable, "-c", BESIDE, str(out), str(path)],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout.splitlines()[-1]) == {"same": True, "equal": True, "libraries": 2}


TRANSLATOR = """
model = hf.AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = hf.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
ids = tokenizer(["Once more", "a"], return_tensors="pt", padding=True)
options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
made = [model.generate(**ids, use_cache=cache, **options).tolist() for cache in (True, False)]
beams = [model.generate(**ids, use_cache=cache, num_beams=3, **options).tolist() for cache in (True, False)]
labels = tokenizer(["Yes"], return_tensors="pt").input_ids
loss = model(**tokenizer(["No"], return_tensors="pt"), labels=labels).loss
loss.backward()
tied = model.model.target_embedding.table is model.model.embedding.table
print(json.dumps({"made": made, "beams": beams, "loss": loss.item(), "tied": tied, "labels": labels.tolist()}))
"""


@pytest.mark.slow
def test_an_encoder_decoder_generates_and_keeps_its_shared_table(tmp_path: Path) -> None:
    recipe = {**load_recipe("tiny_encoder_decoder").dump(), "vocab_size": 260}
    path, out = checkpoint(recipe, tmp_path / "model.ckpt", (ours := ByteTokenizer()).dump()), tmp_path / "out"
    assert export(path, out, "--no-verify") == 0
    said = run_isolated(TRANSLATOR, out, tmp_path)
    model = bf.load(path)
    for row, text in enumerate(("Once more", "a")):
        source = [[*ours.encode(text), ours.eos]]
        written = [token for (token,) in stream(model, [[ours.bos]], sources=source, max_new_tokens=10, choose=greedy)]
        assert said["made"][0][row] == said["made"][1][row] == [ours.bos, *written]
    assert said["beams"][0] == said["beams"][1]
    assert said["tied"]
    target = torch.tensor([[ours.bos, *said["labels"][0][:-1]]])
    logits = model(torch.tensor([[*ours.encode("No"), ours.eos]]), target)
    expected = torch.nn.functional.cross_entropy(logits[0], torch.tensor(said["labels"][0]))
    assert said["loss"] == pytest.approx(expected.item(), rel=1e-5)


THEIRS = '''
"""A mixer that only shifts, with a helper in another file."""

import torch
from torch import Tensor

from blocks import Context, Site
from blocks.base import Mixer
from registry import PositiveFloat, register

from their_blocks.helper import before


@register("their_shift")
class Shift(Mixer):
    """The token before, times a learned number.

    Args:
        gain: where the number starts.
    """

    def __init__(self, site: Site, *, gain: PositiveFloat = 0.5) -> None:
        super().__init__(site)
        self.gain = torch.nn.Parameter(torch.full((site.dim,), gain))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return before(x) * self.gain
'''
HELPER = "from torch import Tensor\n\n\ndef before(x: Tensor) -> Tensor:\n    return x.roll(1, 1)\n"
TRAIN = """
import sys, torch
from blockformer.cli.main import main
from tests.cli.test_export_custom import checkpoint
from pathlib import Path
import blocks, their_blocks.mixers
layer = {"mixer": "their_shift", "feedforward": "glu", "residual": "pre"}
recipe = {"type": "decoder_only", "dim": 16, "vocab_size": 40, "decoder": {"depth": 1, "layer": layer}}
path = checkpoint(recipe, Path("model.ckpt"))
sys.exit(main(["export", str(path), "--to", "hf", "--custom", "--out", "out", *sys.argv[1:]]))
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of two modules that can be found, but is not imported: it would register its block for all tests."""
    package = tmp_path / "their_blocks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mixers.py").write_text(THEIRS)
    (package / "helper.py").write_text(HELPER)
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_blocks"]:
        del sys.modules[name]


@pytest.mark.slow
def test_blocks_of_another_package_are_exported(theirs: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-c", TRAIN]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert {"their_blocks_mixers.py", "their_blocks_helper.py"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_module_of_another_package_is_copied_with_its_imports(theirs: Path) -> None:
    copies = CopiedModules(["their_blocks.mixers"])
    assert "from .their_blocks_helper import before\n" in copies.texts["their_blocks_mixers"]
    assert "from .blocks_base import Context\nfrom .blocks_base import Site\n" in copies.texts["their_blocks_mixers"]
    assert copies.texts["their_blocks_helper"].endswith(HELPER)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import their_blocks.helper", "cannot be copied; write `from their_blocks.helper import ...`"),
        ("from their_blocks import helper", "import names from their_blocks.helper"),
        ("from their_blocks.helper import *", "import names from their_blocks.helper"),
        ("from ...helper import before", "`from ...helper import ...` goes beyond the top-level package"),
        ("from registry import load_recipe", "load_recipe of the registry is not available in an exported model"),
        (
            "from blockformer.training.module import TrainingModule",
            "blockformer.training.module is not available in an exported model",
        ),
    ],
)
def test_imports_that_cannot_be_rewritten_are_reported_with_their_line(line: str, message: str, theirs: Path) -> None:
    (theirs / "mixers.py").write_text(f"import torch\n{line}\n")
    with pytest.raises(UserError) as caught:
        CopiedModules(["their_blocks.mixers"])
    assert str(caught.value).startswith(f"{theirs}/mixers.py:2: ")
    assert message in str(caught.value)


OPERATOR = """
import torch
from blocks.base.operators import LIBRARY
from their_blocks.helper import OWN, SAME, qualified
{}
"""
NAMES = """
from blocks.base.operators import LIBRARY as PREFIX
OWN = PREFIX + "::"
SAME = "mine::"
def qualified(name):
    return f"{PREFIX}::{name}"
"""


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        (
            '@torch.library.custom_op("mine::op", mutates_args=())\ndef op() -> None: ...',
            'custom_op(f"{LIBRARY}::op", ',
        ),
        ('import torch.library as lib; lib.define("mine::op", "() -> ()")', 'define(f"{LIBRARY}::op", '),
        ('from torch.library import custom_op as made; made(name=SAME + "op")', 'custom_op(f"{LIBRARY}::...", '),
        ('from torch import library; library.Library("mine", "FRAGMENT")', "Library(LIBRARY, "),
        ('space = "mine"; torch.library.Library(ns=space, kind="DEF")', "Library(LIBRARY, "),
    ],
)
def test_operators_that_a_copy_would_replace_are_reported_with_their_line(line: str, remedy: str, theirs: Path) -> None:
    (theirs / "helper.py").write_text(NAMES)
    (theirs / "mixers.py").write_text(OPERATOR.format(line))
    with pytest.raises(UserError) as caught:
        CopiedModules(["their_blocks.mixers"])
    assert str(caught.value).startswith(f"{theirs}/mixers.py:5: ")
    assert str(caught.value).endswith(f"make the name from LIBRARY of blocks.base.operators: {remedy}...)")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        '@torch.library.custom_op(f"{LIBRARY}::op", mutates_args=())\ndef op() -> None: ...',
        'torch.library.define(OWN + "op", "() -> ()")',
        'torch.library.define(qualname=qualified("op"), schema="() -> ()")',
        'space = __name__.replace(".", "_"); torch.library.Library(space, "DEF")',
        'torch.library.Library("aten", "IMPL")',
    ],
)
def test_operators_with_another_name_in_the_copy_are_copied(line: str, theirs: Path) -> None:
    (theirs / "helper.py").write_text(NAMES)
    (theirs / "mixers.py").write_text(OPERATOR.format(line))
    assert line in CopiedModules(["their_blocks.mixers"]).texts["their_blocks_mixers"]


def test_a_relative_import_is_resolved_against_its_package(theirs: Path) -> None:
    (theirs / "__init__.py").write_text("SIZE = 1\n")
    (theirs / "inner").mkdir()
    (theirs / "inner" / "__init__.py").write_text("from ..helper import before\nfrom .parts import after\n")
    (theirs / "inner" / "parts.py").write_text("from .. import SIZE\nafter = SIZE\n")
    texts = CopiedModules(["their_blocks.inner"]).texts
    inner = "from .their_blocks_helper import before\nfrom .their_blocks_inner_parts import after\n"
    assert texts["their_blocks_inner"].endswith(inner)
    assert texts["their_blocks_inner_parts"].endswith("from .their_blocks import SIZE\nafter = SIZE\n")


def test_only_classes_that_the_code_uses_are_imported() -> None:
    """A layer may have the name of a class that the recipe uses only by default."""
    layer = {"mixer": "attention", "feedforward": "glu", "residual": "pre"}
    layers = {"PreNorm": layer, "other": {**layer, "feedforward": "mlp"}}
    decoder = {"depth": 2, "layers": layers, "pattern": list(layers)}
    recipe = load_recipe({"type": "decoder_only", "dim": 16, "vocab_size": 40, "decoder": decoder})
    tree = ast.parse(modeling_code(recipe, "decoder_only")[0])
    imported = [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {alias.asname or alias.name for alias in imported} <= used


def test_a_block_without_source_is_rejected() -> None:
    with pytest.raises(UserError, match="the source of module _struct cannot be found"):
        CopiedModules(["_struct"])


def test_copies_import_only_each_other_and_installed_packages() -> None:
    """Every name that blocks import from the registry is in the stub, and no copy imports our packages."""
    names = {entry.block.__module__ for slot in slots() for entry in entries(slot).values()}
    copies = CopiedModules(sorted(name for name in names if name.startswith("blocks.")))
    assert len(copies.texts) > len(names)
    for flat, text in copies.texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in copies.texts, f"{flat} imports {node.module}"
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).partition(".")[0] not in ("blocks", "registry", "blockformer")


@pytest.mark.slow
def test_a_custom_folder_that_differs_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from blockformer.huggingface.custom import exporter

    def other(recipe: Any, kind: str) -> tuple[str, list[str]]:
        text, modules = original(recipe, kind)
        assert "heads=4" in text
        return text.replace("heads=4", "heads=2", 1), modules

    original = exporter.modeling_code
    monkeypatch.setattr(exporter, "modeling_code", other)
    out = tmp_path / "out"
    assert export(checkpoint("tiny_encoder", tmp_path / "model.ckpt"), out) == 1
    assert f"{out} was not written" in capsys.readouterr().out
    assert not out.exists()


def test_custom_and_family_cannot_be_combined(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        export(tmp_path / "any", tmp_path / "out", "--family", "llama")
    assert left.value.code == 2
