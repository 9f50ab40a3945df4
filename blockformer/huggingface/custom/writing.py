"""Write a model with its own code, and try it where blockformer does not exist."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file

from blockformer.assembly.loading import RECIPE
from blockformer.errors import UserError
from blockformer.huggingface.adapter import HuggingFaceNames
from blockformer.huggingface.config import read_config
from blockformer.huggingface.custom.architecture import CLASSES, modelling
from blockformer.huggingface.custom.vendoring import Copies
from blockformer.huggingface.export import Source
from blockformer.huggingface.exporting import stored_type, write_generation, write_json, write_weights
from blockformer.huggingface.verification import Verification, apart, random_inputs

CODE = "modeling_blockformer"
OUTSIDE = Path(__file__).parent / "outside.py"
LENGTH = 32


def write_custom(source: Source, folder: Path, shard_size: str) -> Copies:
    """Write the recipe, the code that builds it with all that this needs, config.json and the tensors.

    Args:
        source: the model.
        folder: where to write; it exists.
        shard_size: the largest file of tensors.

    Raises:
        UserError: the code of a block cannot be copied.
        InterchangeError: the size of a part cannot be read.
    """
    recipe, model = source.recipe, source.model
    text, modules = modelling(recipe, model.kind)
    copies = Copies(modules)
    copies.write(folder)
    (folder / f"{CODE}.py").write_text(text, encoding="utf-8")
    (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    name, auto = CLASSES[model.kind]
    tensors = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    config = {
        "architectures": [name],
        "model_type": "blockformer",
        "auto_map": {"AutoConfig": f"{CODE}.BlockformerConfig", auto: f"{CODE}.{name}"},
        "is_encoder_decoder": model.kind == "encoder_decoder",
        "vocab_size": model.vocab_size,
        "hidden_size": model.dim,
        "max_position_embeddings": model.max_length,
        "tie_word_embeddings": False,  # what is shared is one module
        "torch_dtype": stored_type(tensors),
        "recipe_hash": recipe.hash,
        **source.tokens,
    }
    write_json(folder / "config.json", config)
    write_generation(folder, recipe, source.tokens)
    write_weights(folder, tensors, shard_size)
    return copies


def verify_custom(source: Source, folder: Path, copies: Copies) -> Verification:
    """Compare the model with what transformers loads in a process that cannot import blockformer.

    Args:
        source: the model.
        folder: what :func:`write_custom` wrote.
        copies: what it returned.

    Raises:
        UserError: transformers cannot load or run it there; the last line of its message is given.
    """
    model = source.model
    inputs = random_inputs(model, read_config(folder / "config.json"), min(LENGTH, model.max_length))
    with TemporaryDirectory() as place:
        given, made = Path(place) / "inputs.safetensors", Path(place) / "outputs.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, given)
        _run_outside(folder, CLASSES[model.kind][1], given, made, sorted({*copies.owned, "blockformer"}))
        theirs = load_file(made)["logits"]
    with torch.no_grad():
        ours = HuggingFaceNames(model.float())(**inputs)
    written = inputs["decoder_input_ids"] if "decoder_input_ids" in inputs else inputs["attention_mask"]
    mask = torch.ones_like(written).bool() if "decoder_input_ids" in inputs else written.bool()
    return Verification(apart(ours, theirs, mask), {})


def _run_outside(folder: Path, kind: str, given: Path, made: Path, absent: list[str]) -> None:
    command = [sys.executable, "-P", str(OUTSIDE), str(folder.resolve()), kind, str(given), str(made), *absent]
    own = {"HF_MODULES_CACHE": str(given.parent / "modules"), "HF_HUB_OFFLINE": "1"}
    answer = subprocess.run(
        command, cwd=given.parent, env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise UserError(f"the folder does not work by itself: {last}")
