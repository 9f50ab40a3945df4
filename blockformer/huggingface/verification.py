"""Compare a model with the original in transformers, on the same inputs."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from math import isfinite, isnan
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from blockformer.assembly.builder import check
from blockformer.huggingface.adapter import HuggingFaceNames
from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.family import as_list
from blockformer.huggingface.folder import file_in, read_config
from blockformer.huggingface.importer import ImportedModel
from blockformer.huggingface.verification_inputs import MOST_TOKENS, Trials, output_mask, trials
from blocks.models.base import Model
from registry.text import shortened

TOLERANCE = 2e-5  # relative; float32 rounding of sums in another order stays below it for models of any size


@dataclass(frozen=True)
class Verification:
    """Relative differences of two models: max|difference| / max|original| over all tokens that are not padding.

    Attributes:
        logits: difference of the logits.
        layers: difference of the output of each layer, by its name here, from the embedding on; empty if the original
            does not return hidden states.
        untried: what the texts did not contain, such as padding that the model does not support.
        rounding: difference of the logits in float32 where that is above the tolerance and only rounding, which the
            model magnifies: then `logits` and `layers` are those of float64.
    """

    logits: float
    layers: Mapping[str, float]
    untried: Sequence[str] = ()
    rounding: float | None = None

    @property
    def agrees(self) -> bool:
        """Whether the logits differ by no more than the tolerance."""
        return self.logits <= TOLERANCE

    @property
    def first_difference(self) -> str | None:
        """Name of the first layer that differs by more than the tolerance."""
        return next((name for name, difference in self.layers.items() if not difference <= TOLERANCE), None)


def verify(imported: ImportedModel, length: int = 32, longest: int = MOST_TOKENS) -> Verification:
    """Compare an imported model with the original in transformers, on the CPU.

    They are compared in float32 and, if they differ there, again in float64, where what is only rounding vanishes.

    Args:
        imported: the result of :func:`blockformer.huggingface.read_folder`.
        length: tokens per text; at most the model's ``max_length`` are used, and more if a window or a trained length
            would otherwise have no effect.
        longest: tokens per text at most.

    Raises:
        HuggingFaceError: transformers is not installed, or cannot load the folder.
    """
    original = _load_original(imported)
    model = check(imported.recipe)
    model.load_state_dict({name: tensor.float() for name, tensor in imported.parameters.items()}, assign=True)
    model.eval()
    config = read_config(imported.folder / "config.json")
    tried = trials(model, imported.recipe, config, imported.folder, length, longest)
    found = _compare_all(imported.folder, model, original, tried)
    if found.agrees or not isfinite(found.logits):
        return found
    exact = _compare_in_float64(imported.folder, model, original, tried)
    return replace(exact, rounding=found.logits) if exact is not None and exact.agrees else found


def _compare_in_float64(folder: Path, model: Model, original: Any, tried: Trials) -> Verification | None:
    """The comparison in double precision; None: the original does not run in it.

    Where the original computes some steps in float32 nevertheless, their rounding is part of the difference.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of masks and constants that the original makes
    try:
        with _refusals(folder, "run"):
            original = original.double()
            if getattr(original, "_can_set_experts_implementation", bool)():
                original.set_experts_implementation("eager")  # products of groups exist in single precision only
        return _compare_all(folder, model.double(), original, tried)
    except HuggingFaceError:
        return None
    finally:
        torch.set_default_dtype(before)


def _compare_all(folder: Path, model: Model, original: Any, tried: Trials) -> Verification:
    """The largest differences over all batches."""
    results = [_compare(folder, model, original, inputs) for inputs in tried.batches]
    layers: dict[str, float] = {}
    for _, differences in results:
        for name, difference in differences.items():
            layers[name] = _larger(layers.get(name, 0.0), difference)
    logits = 0.0
    for difference, _ in results:
        logits = _larger(logits, difference)
    return Verification(logits, layers, tried.untried)


def _larger(one: float, other: float) -> float:
    """The larger of two differences; one that is not a number counts as the largest."""
    return one if isnan(one) or one >= other else other


def _compare(folder: Path, model: Model, original: Any, inputs: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
    """The difference of the logits and of each layer, for one batch."""
    recorder = _Recorder(model)
    options = {} if model.kind == "encoder_only" else {"use_cache": False}  # with a cache some do not mask causally
    with torch.no_grad(), _refusals(folder, "run"):
        theirs = original(**inputs, **options, output_hidden_states=True)
    with torch.no_grad():
        ours = HuggingFaceNames(model)(**inputs)
    recorder.remove()
    mask = output_mask(inputs)
    layers = dict(_compare_layers(recorder, theirs, inputs["attention_mask"].bool(), mask))
    rows = mask.any(dim=1) if model.pooled else mask
    return relative_difference(ours, theirs.logits, rows), layers


@contextmanager
def _refusals(folder: Path, what: str) -> Generator[None]:
    """Name the folder in an error of transformers, whose classes raise errors of any class for a config."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise HuggingFaceError.at(folder, f"transformers cannot {what} it: {shortened(reason)}") from None


def _load_original(imported: ImportedModel) -> Any:
    folder = imported.folder
    try:
        transformers: Any = import_module("transformers")
    except ImportError:
        message = "verification requires transformers: pip install 'blockformer[hf]'"
        raise HuggingFaceError.at(folder, message) from None
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    classes = as_list(read_config(folder / "config.json").get("architectures"))
    name = next((one for one in classes if one in imported.family.architectures), None)
    with _refusals(folder, "load"):  # a class may need a package that is not installed
        original: Any = getattr(transformers, name or "", None)
    if original is None:
        message = f"transformers {transformers.__version__} has no class {name}"
        raise HuggingFaceError.at(folder, message)
    for path in folder.iterdir():  # transformers reads more files than the import
        if not path.is_dir():
            file_in(folder, path.name)
    with _refusals(folder, "load"):
        # trust_remote_code=False: without it transformers asks on a terminal whether to run code of the folder
        loaded = original.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=imported.family.reference,
            local_files_only=True,
            trust_remote_code=False,
        )
        return loaded.eval()


class _Recorder:
    """Records the outputs of the embeddings, layers and stacks of a model, in the order in which they run."""

    def __init__(self, model: Model) -> None:
        self.outputs: dict[str, list[tuple[str, Tensor]]] = {"encoder": [], "decoder": []}
        self.stack_output: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        for side in self.outputs:
            if hasattr(model, side):
                embedding = "target_embedding" if side == "decoder" and hasattr(model, "encoder") else "embedding"
                stack = getattr(model, side)
                self._record(side, embedding, getattr(stack, "expansion", None) or getattr(model, embedding))
                for index, layer in enumerate(stack.layers):
                    self._record(side, f"{side}.layers.{index}", layer)
                self._record(side, side, stack)

    def _record(self, side: str, name: str, module: nn.Module) -> None:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if name == side:
                self.stack_output[side] = output
            else:
                self.outputs[side].append((name, output))

        self._hooks.append(module.register_forward_hook(hook))

    def remove(self) -> None:
        """Stop recording."""
        for hook in self._hooks:
            hook.remove()


def _compare_layers(
    recorder: _Recorder, theirs: Any, source_mask: Tensor, target_mask: Tensor
) -> Iterator[tuple[str, float]]:
    both = bool(recorder.outputs["encoder"] and recorder.outputs["decoder"])
    for side, outputs in recorder.outputs.items():
        states = cast("tuple[Tensor, ...] | None", theirs.get(f"{side}_hidden_states" if both else "hidden_states"))
        if not outputs or states is None or len(states) < len(outputs):
            continue
        mask = source_mask if side == "encoder" else target_mask
        states = tuple(_tokens_first(state, mask) for state in states)
        if len(outputs) > 1 and _leaves_out_the_embedding(outputs, states, mask):
            outputs = outputs[1:]
        runs: dict[str, int] = {}  # a layer with shared weights runs several times
        for index, (name, ours) in enumerate(outputs):
            ours = _with_streams(ours, states[index])
            runs[name] = runs.get(name, 0) + 1
            difference = relative_difference(ours, states[index], mask)
            if index == len(outputs) - 1:  # most originals return the last state after the norm of the stack
                difference = min(difference, relative_difference(recorder.stack_output[side], states[-1], mask))
            yield name if runs[name] == 1 else f"{name} (run {runs[name]})", difference


def _tokens_first(theirs: Tensor, mask: Tensor) -> Tensor:
    """The original's residual streams after the axes of tokens, (B, T, N, D), if it has them before: (N, B, T, D)."""
    first = theirs.ndim == 4 and theirs.shape[:2] != mask.shape and theirs.shape[1:3] == mask.shape
    return theirs.movedim(0, -2) if first else theirs


def _with_streams(ours: Tensor, theirs: Tensor) -> Tensor:
    """Our vectors with several residual streams as theirs, on an axis or side by side, which begin as copies."""
    if theirs.ndim == 4 and ours.ndim == 3:
        return ours.unsqueeze(-2).repeat(1, 1, theirs.shape[-2], 1)
    if theirs.ndim == 3 and ours.ndim == 4:
        return ours.flatten(-2)
    times, rest = divmod(theirs.shape[-1], ours.shape[-1])
    return ours.repeat(1, 1, times) if times > 1 and not rest and ours.ndim == theirs.ndim == 3 else ours


def _leaves_out_the_embedding(outputs: list[tuple[str, Tensor]], states: tuple[Tensor, ...], mask: Tensor) -> bool:
    """Whether the first state of the original is the output of the first layer."""
    (_, embedding), (_, first) = outputs[:2]
    return relative_difference(first, states[0], mask) <= TOLERANCE < relative_difference(embedding, states[0], mask)


def relative_difference(ours: Tensor, theirs: Tensor, mask: Tensor) -> float:
    """max|ours - theirs| / max|theirs| over tokens (mask (B, T)) or rows (mask (B,)); infinite for other shapes."""
    if ours.shape != theirs.shape:
        return float("inf")
    return ((ours - theirs)[mask].abs().max() / theirs[mask].abs().max()).item()
