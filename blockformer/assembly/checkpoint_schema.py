"""The schema of a checkpoint: keys and their types, and limits for files from untrusted sources."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from torch import Tensor

from blockformer.errors import UserError
from registry.text import shortened

FORMAT = 1
METADATA, PREFIX = "blockformer", "model."  # key of the metadata, prefix of the model's parameter names
DEEPEST, MOST = 100, 50_000_000  # nesting and number of values
LARGEST = 2**64  # of an integer

Count = Annotated[int, Field(ge=0, le=2**62)]
Plain = dict[str, Any]
# Those that this project has trained with; for older ones Lightning rewrites the content, whatever it is.
Version = Annotated[
    str, StringConstraints(pattern=r"^2\.([6-9]|[1-9]\d)\.\d{1,4}((\.post|\.dev|rc|a|b)\d{1,4})?(\+[a-z0-9]+)?$")
]


class MalformedError(UserError):
    """A checkpoint has an unknown key or a malformed value; the message names the key."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", arbitrary_types_allowed=True)


class Metadata(_Strict):
    """Under the key `blockformer`. Only the recipe is always there; whoever needs another key asks for it."""

    format: int
    recipe: Plain
    version: str | None = None
    recipe_hash: str | None = None
    kind: str | None = None
    objective: str | None = None
    bidirectional_prompt: bool | None = None
    objective_facts: dict[str, Plain] | None = None
    step: Count | None = None
    epoch: Count | None = None
    tokens: Count | None = None
    total_steps: Count | None = None
    finished: bool | None = None
    earlier_data: list[Plain] | None = None
    validated_step: Annotated[int, Field(ge=-1)] | None = None
    evaluation: dict[str, float] | None = None
    tokenizer: Plain | None = None
    extra_tokens: dict[str, Count] | None = None
    data: Plain | None = None
    variant: str | None = None
    config: Plain | None = None
    plugins: list[str] | None = None
    warm_start: Plain | None = None
    signature: str | None = None


class Content(_Strict):
    """The whole file: the model's weights, the metadata, and the state that Lightning continues a run from."""

    state_dict: dict[str, Tensor]
    global_step: Count | None = None
    epoch: Count | None = None
    optimizer_states: list[Plain] | None = None
    lr_schedulers: list[Any] | None = None
    loops: Plain | None = None
    callbacks: Plain | None = None
    random_states: list[Plain] | None = None
    lightning: Version | None = Field(None, alias="pytorch-lightning_version")


def checked(content: Any, unread: type[Tensor] | tuple[()] = ()) -> dict[str, Any]:
    """The content of a checkpoint, unchanged.

    Args:
        content: from anyone.
        unread: type of the tensors whose values are not here.

    Raises:
        MalformedError: a key is missing or has another type, or a weight is not a finite dense tensor.
    """
    checked_metadata(content)
    _validate(Content, content, "")
    _limit(content, "")
    for name, tensor in content["state_dict"].items():
        if not isinstance(tensor, unread) and (problem := tensor_problem(tensor)):
            raise MalformedError(f"state_dict.{short_name(name)} {problem}")
    return cast("dict[str, Any]", content)


def checked_metadata(content: Any) -> dict[str, Any]:
    """The metadata of a checkpoint's content.

    Raises:
        MalformedError: there is none, or a key is missing or has another type.
    """
    if not isinstance(content, dict) or METADATA not in content:
        raise MalformedError("is not a checkpoint of blockformer")
    metadata = cast("dict[str, Any]", content)[METADATA]
    found = metadata.get("format") if isinstance(metadata, dict) else None
    if found != FORMAT or isinstance(found, bool):
        raise MalformedError(f"has format {short_name(found)}; this version reads format {FORMAT}")
    _limit(metadata, METADATA, tensors=False)
    _validate(Metadata, metadata, f"{METADATA}.")
    return cast("dict[str, Any]", metadata)


def tensor_problem(tensor: Tensor) -> str | None:
    """Why a tensor cannot be a weight; None: it can."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
        return f"is not a dense tensor (layout {tensor.layout}, device {tensor.device})"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"has shape {tuple(tensor.shape)}, and fewer stored values"
    if tensor.is_complex():
        return f"is of {tensor.dtype}, not of real numbers"
    if tensor.is_floating_point() and not is_finite(tensor):
        return "is not finite: it has infinite values or NaN"
    return None


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; reads the tensor once and allocates nothing of its size."""
    if tensor.numel() == 0:
        return True
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):  # 8 bits: no arithmetic
        tensor = tensor.float()
    return all(bool(extreme.isfinite()) for extreme in tensor.detach().aminmax())


def _validate(schema: type[BaseModel], value: Any, prefix: str) -> None:
    try:
        schema.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = prefix + ".".join(short_name(part) for part in first["loc"])
        reason = "is missing" if first["type"] == "missing" else f"is wrong: {first['msg'].lower()}"
        raise MalformedError(f"{where} {reason}") from None


def _limit(value: Any, path: str, *, tensors: bool = True) -> None:
    """Accept only tensors and plain data, of a bounded depth and a bounded number of values however they are shared."""
    sizes: dict[int, int] = {}

    def count(value: Any, path: str, depth: int) -> int:
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            if id(value) in sizes:
                return sizes[id(value)]
            if depth > DEEPEST:
                raise MalformedError(f"{path.lstrip('.')[:80]}... is nested more than {DEEPEST} deep")
            parts = value.items() if isinstance(value, Mapping) else enumerate(cast("Any", value))
            total = 1
            for key, part in parts:
                if not isinstance(key, str | int):
                    raise MalformedError(f"{path.lstrip('.')}: {short_name(key)} is not a valid key")
                total += count(part, path if depth > 6 else f"{path}.{short_name(key)}", depth + 1)
                if total > MOST:
                    raise MalformedError(f"{path.lstrip('.')} holds more than {MOST:,} values")
            sizes[id(value)] = total
            return total
        problem = _scalar_problem(value, tensors)
        if problem:
            raise MalformedError(f"{path.lstrip('.')} {problem}")
        return 1

    count(value, path, 0)


def _scalar_problem(value: Any, tensors: bool) -> str | None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "is not valid Unicode text"
        return None
    if isinstance(value, int):
        return None if abs(value) <= LARGEST else "is an integer of more than 64 bits"
    plain = value is None or isinstance(value, float | bytes)
    if plain or (tensors and isinstance(value, Tensor | torch.dtype | torch.Size)):
        return None
    return f"is a {type(value).__name__}, not plain data"


def short_name(value: Any) -> str:
    """A key or value of a file for a message: short, on one line, without control characters."""
    if not isinstance(value, str | int) or (isinstance(value, int) and abs(value) > LARGEST):
        return f"a {type(value).__name__}"
    return shortened(value, 60)
