"""Run an imported model beside the original, on the same inputs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from blockformer.assembly.builder import check
from blockformer.huggingface.adapter import HuggingFaceNames
from blockformer.huggingface.config import read_config
from blockformer.huggingface.errors import InterchangeError
from blockformer.huggingface.importing import Imported
from blocks.models.base import Model

TOLERANCE = 2e-5  # what float32 leaves of the order of summation, in models of any size
PADDED = 5  # tokens of padding after the second row


@dataclass(frozen=True)
class Verification:
    """How far the two models are apart: max|difference| / max|original| over all tokens that are not padding.

    Attributes:
        logits: of the logits.
        layers: of what each layer gives, by its name here, from the embedding on; empty if the original does not say.
    """

    logits: float
    layers: Mapping[str, float]

    @property
    def agrees(self) -> bool:
        """The logits are the original's."""
        return self.logits <= TOLERANCE

    @property
    def first(self) -> str | None:
        """The first layer that differs."""
        return next((name for name, difference in self.layers.items() if not difference <= TOLERANCE), None)


def verify(imported: Imported, length: int = 32) -> Verification:
    """Compare an imported model with transformers' own, in float32 on the CPU.

    Args:
        imported: what :func:`blockformer.huggingface.read_folder` gave.
        length: tokens in a text; fewer if the model takes fewer.

    Raises:
        InterchangeError: transformers is not installed, or cannot read the folder.
    """
    original = _original(imported.folder)
    model = check(imported.recipe)
    model.load_state_dict({name: tensor.float() for name, tensor in imported.parameters.items()}, assign=True)
    model.eval()
    inputs = random_inputs(model, read_config(imported.folder / "config.json"), min(length, model.max_length))
    recorder = _Recorder(model)
    with torch.no_grad():
        plainly = {} if model.kind == "encoder_only" else {"use_cache": False}  # some mask the future only without
        theirs = original(**inputs, **plainly, output_hidden_states=True)
        ours = HuggingFaceNames(model)(**inputs)
    kept = inputs["attention_mask"].bool()
    written = torch.ones_like(inputs["decoder_input_ids"]).bool() if "decoder_input_ids" in inputs else kept
    layers = dict(_layers(recorder, theirs, kept, written))
    return Verification(apart(ours, theirs.logits, written), layers)


def _original(folder: Path) -> Any:
    try:
        transformers: Any = import_module("transformers")
    except ImportError:
        raise InterchangeError.at(
            folder, "to compare it, transformers is needed: pip install 'blockformer[hf]'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    classes = read_config(folder / "config.json").get("architectures") or [None]
    original: Any = getattr(transformers, str(classes[0]), None)
    if original is None:
        message = f"transformers {transformers.__version__} has no class {classes[0]}"
        raise InterchangeError.at(folder, message)
    try:
        loaded = original.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        message = f"transformers cannot read it: {str(error).partition(chr(10))[0]}"
        raise InterchangeError.at(folder, message) from None
    return loaded.eval()


def random_inputs(model: Model, config: Mapping[str, Any], length: int) -> dict[str, Tensor]:
    """Two texts of random tokens, by Hugging Face's names; the second is shorter and padded if the model takes that."""
    generator = torch.Generator().manual_seed(0)
    padding = config.get("pad_token_id") or 0
    ids = _ids(int(config.get("src_vocab_size") or model.vocab_size), padding, (2, length), generator)
    mask = torch.ones_like(ids)
    if length > PADDED and model.allows("padding"):
        mask[1, -PADDED:] = 0
        ids[1, -PADDED:] = padding
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.kind == "encoder_decoder":
        inputs["decoder_input_ids"] = _ids(model.vocab_size, padding, (2, max(1, length * 3 // 4)), generator)
    elif getattr(model.embedding, "segments", None) is not None and config.get("type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = (torch.arange(length) >= length // 2).long().expand(2, -1) * mask
    return inputs


def _ids(size: int, padding: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random ids, none of them that of padding: some originals take the padding from the ids."""
    ids = torch.randint(0, max(size - 1, 1), shape, generator=generator)
    return ids + (ids >= padding) if size > 1 else ids


class _Recorder:
    """What the embeddings, layers and stacks of a model give, in the order in which they run."""

    def __init__(self, model: Model) -> None:
        self.given: dict[str, list[tuple[str, Tensor]]] = {"encoder": [], "decoder": []}
        self.normed: dict[str, Tensor] = {}
        for side in self.given:
            if hasattr(model, side):
                named = "target_embedding" if side == "decoder" and hasattr(model, "encoder") else "embedding"
                self._follow(side, named, getattr(model, named))
                stack = getattr(model, side)
                for index, layer in enumerate(stack.layers):
                    self._follow(side, f"{side}.layers.{index}", layer)
                self._follow(side, side, stack)

    def _follow(self, side: str, name: str, module: nn.Module) -> None:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            if name == side:
                self.normed[side] = output
            else:
                self.given[side].append((name, output))

        module.register_forward_hook(record)


def _layers(recorder: _Recorder, theirs: Any, kept: Tensor, written: Tensor) -> Iterator[tuple[str, float]]:
    both = bool(recorder.given["encoder"] and recorder.given["decoder"])
    for side, given in recorder.given.items():
        states = cast("tuple[Tensor, ...] | None", theirs.get(f"{side}_hidden_states" if both else "hidden_states"))
        if not given or states is None or len(states) < len(given):
            continue
        mask = kept if side == "encoder" else written
        turns: dict[str, int] = {}
        for index, (name, ours) in enumerate(given):
            turns[name] = turns.get(name, 0) + 1
            difference = apart(ours, states[index], mask)
            if index == len(given) - 1:  # most originals give this one after the stack's norm
                difference = min(difference, apart(recorder.normed[side], states[-1], mask))
            yield name if turns[name] == 1 else f"{name} (turn {turns[name]})", difference


def apart(ours: Tensor, theirs: Tensor, mask: Tensor) -> float:
    """max|difference| / max|theirs| over the tokens of a mask (B, T); infinite if the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return ((ours - theirs)[mask].abs().max() / theirs[mask].abs().max()).item()
