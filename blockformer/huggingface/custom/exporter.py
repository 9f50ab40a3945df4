"""Export a model with the code of its blocks, and verify it in a process without blockformer."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file

from blockformer.assembly.loading import RECIPE
from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.huggingface.adapter import HuggingFaceNames
from blockformer.huggingface.custom.copied_modules import CopiedModules
from blockformer.huggingface.custom.modeling_code import CLASSES, modeling_code
from blockformer.huggingface.exporter import ExportSource, write_generation_config
from blockformer.huggingface.folder import main_dtype, read_config, write_json, write_tensor_files
from blockformer.huggingface.verification import Verification, relative_difference
from blockformer.huggingface.verification_inputs import output_mask, random_inputs
from blocks.models.base import Model

_MODELING = "modeling_blockformer"  # transformers expects the prefix modeling_
_PROGRAM = Path(__file__).parent / "isolated_process.py"
_LENGTH = 32  # tokens per text


def write_custom(source: ExportSource, folder: Path, shard_size: str) -> CopiedModules:
    """Write the recipe, the code that builds it, config.json and the tensors.

    Args:
        source: the model.
        folder: an existing folder.
        shard_size: the largest size of one file of tensors, such as ``5GB``.

    Raises:
        UserError: the code of a block cannot be copied, or transformers has no class for such a model.
        HuggingFaceError: ``shard_size`` is not a size.
    """
    recipe, model = source.recipe, source.model
    if model.pooled and model.kind == "encoder_decoder":
        raise UserError(f"{source.name}: transformers has no class for an encoder_decoder whose head pools")
    text, modules = modeling_code(recipe, _kind(model))
    copies = CopiedModules(modules)
    copies.write(folder)
    write_text(folder / f"{_MODELING}.py", text)
    write_text(folder / RECIPE, recipe.to_yaml())
    name, auto_class = CLASSES[_kind(model)]
    tensors = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    config = {
        "architectures": [name],
        "model_type": "blockformer",
        "auto_map": {"AutoConfig": f"{_MODELING}.BlockformerConfig", auto_class: f"{_MODELING}.{name}"},
        "is_encoder_decoder": model.kind == "encoder_decoder",
        "vocab_size": model.vocab_size,
        "hidden_size": model.dim,
        "max_position_embeddings": model.max_length,
        "tie_word_embeddings": False,  # shared weights are one module, so transformers has nothing to tie
        "torch_dtype": main_dtype(tensors),
        "recipe_hash": recipe.hash,
        **({"num_labels": model.head.values} if model.pooled else {}),
        **source.tokens,
    }
    write_json(folder / "config.json", config)
    write_generation_config(folder, recipe, source.tokens)
    write_tensor_files(folder, tensors, shard_size)
    return copies


def verify_custom(source: ExportSource, folder: Path, copies: CopiedModules) -> Verification:
    """Compare the model with the exported one, loaded by transformers in a process that cannot import blockformer.

    Args:
        source: the model.
        folder: written by :func:`write_custom`.
        copies: the result of :func:`write_custom`.

    Raises:
        UserError: transformers cannot load or run the model there.
    """
    model = source.model
    inputs = random_inputs(model, read_config(folder / "config.json"), min(_LENGTH, model.max_length))
    with TemporaryDirectory() as temporary:
        inputs_file, outputs_file = Path(temporary) / "inputs.safetensors", Path(temporary) / "outputs.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, inputs_file)
        blocked = sorted({*copies.packages, "blockformer"})
        _run_isolated(folder, CLASSES[_kind(model)][1], inputs_file, outputs_file, blocked)
        theirs = load_file(outputs_file)["logits"]
    with torch.no_grad():
        ours = HuggingFaceNames(model.float())(**inputs)
    mask = output_mask(inputs)
    return Verification(relative_difference(ours, theirs, mask.any(dim=1) if model.pooled else mask), {})


def _kind(model: Model) -> str:
    return "pooled" if model.pooled else model.kind


def _run_isolated(folder: Path, class_name: str, inputs: Path, outputs: Path, blocked: list[str]) -> None:
    arguments = [str(folder.resolve()), class_name, str(inputs), str(outputs), *blocked]
    settings = {"HF_MODULES_CACHE": str(inputs.parent / "modules"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-P", str(_PROGRAM), *arguments],
        cwd=inputs.parent,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"the process ended with status {result.returncode}"]
        raise UserError(f"transformers cannot run the exported model without blockformer: {lines[-1]}")
