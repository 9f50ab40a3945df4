"""Explain a text: run the model, record its steps, and what it predicts and keeps for the next token."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from blockformer.assembly.free_memory import require_free
from blockformer.data.tokenizer import Tokenizer
from blockformer.errors import UserError
from blockformer.explanation.decoding import kept_for_the_next_token
from blockformer.explanation.explanation import Explanation, Prediction, Token
from blockformer.explanation.page import in_a_notebook
from blockformer.explanation.recorder import Recorder
from blockformer.explanation.sampling import Limits, chosen, sampled
from blockformer.explanation.steps import Step
from blockformer.explanation.subject import Subject, subject_of
from blockformer.generation.streaming import generate
from blockformer.generation.text_model import TextModel
from blockformer.inspection.diagram import diagram
from blockformer.inspection.rendering import as_svg
from blocks.base.intermediates import OUTPUT
from blocks.models.base import Model

BLANK = "_"
"""Stands for a masked token in the text of an encoder."""
BEST, WRITTEN = 8, 16
STORED_SCORES, STORED_LOGITS = 6, 4
"""How often a step stores numbers of that size at a time: scaled, masked, ...; as they are, in float32, sorted."""


def explain(
    model: str | Path | Model | TextModel,
    text: str,
    *,
    source: str | None = None,
    tokenizer: Tokenizer | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    beside: Explanation | None = None,
) -> Explanation:
    """Each step of a model's forward pass for a text; shown as a page in Jupyter.

    Args:
        model: a run, a checkpoint or an imported folder; a recipe, which is explained with initial values; or a model.
        text: what the model reads. In that of an encoder, ``_`` is a masked token. Of an encoder-decoder, the target so
            far if there is a ``source``, else the source, whose target the model writes.
        source: what an encoder-decoder's encoder reads.
        tokenizer: of the text; None: the one that is stored with the model, else one token for each byte.
        limits: what is kept of long texts and wide tensors; None: the usual ones.
        seed: of the initial values of a recipe.
        beside: what this is compared with: of logits the same ids are kept; None: the most probable ones are.

    Raises:
        UserError: the model cannot be loaded, or the text is empty or too long, also for the free memory.
        RecipeError: the recipe is wrong.
    """
    return explain_subject(subject_of(model, tokenizer, seed=seed), text, source=source, limits=limits, beside=beside)


def explain_subject(
    subject: Subject,
    text: str,
    *,
    source: str | None = None,
    limits: Limits | None = None,
    beside: Explanation | None = None,
) -> Explanation:
    """:func:`explain` of a model that is loaded."""
    training = [part for part in subject.model.modules() if part.training]
    try:
        subject.model.eval()
        with torch.inference_mode():
            return _explained(subject, text, source, limits or Limits(), beside)
    finally:
        for part in training:
            part.training = True


def _explained(
    subject: Subject, text: str, source: str | None, limits: Limits, beside: Explanation | None
) -> Explanation:
    model = subject.model
    rows = _ids(subject, text, source)
    _check_memory(model, max(map(len, rows)))
    recorder = Recorder(model, limits, None if beside is None else _ids_of_logits(beside))
    with recorder.recording():
        logits = _run(subject, recorder, rows)
    steps = recorder.steps
    tokens = [tuple(Token(one, subject.tokenizer.name(one)) for one in row) for row in rows]
    predictions: list[Prediction] = []
    if not model.pooled and not model.per_token:
        steps.append(_probabilities(steps, logits, len(rows) - 1))
        predictions = _predictions(subject, logits, limits)
    states, cache = kept_for_the_next_token(subject, rows, logits, limits)
    left_out = recorder.left_out
    _insert(steps, [state for state in states if state.layer in left_out.get(state.stack, (state.layer,))])
    return Explanation(
        name=subject.name,
        text=source or text,
        kind=model.kind,
        parameters=model.size,
        texts=tuple(tokens),
        steps=tuple(steps),
        predictions=tuple(predictions),
        cache=tuple(cache),
        vocabulary=_vocabulary(subject, steps),
        written=predictions[-1].best[0][0] if predictions and model.kind != "encoder_only" else None,
        trained=subject.trained,
        own_tokenizer=subject.own_tokenizer,
        drawing=_drawing(subject),
        limits=limits,
        left_out=left_out,
        as_html=in_a_notebook,
    )


def _ids_of_logits(explanation: Explanation) -> tuple[int, tuple[int, ...]] | None:
    """The size of the vocabulary, and the ids that are kept of the logits; None: there are no logits."""
    values = [step.value for step in explanation.steps if step.value.axes == ("token", "vocabulary")]
    return (values[-1].shape[-1], values[-1].index[-1]) if values else None


def _drawing(subject: Subject) -> str:
    """The model as `show --format svg` draws it; empty for one that no recipe describes."""
    if subject.recipe is None:
        return ""
    title = f"{subject.name}, {subject.model.kind}, {subject.model.size:,} parameters"
    description = f"The blocks of {subject.name}, from tokens to logits."
    return as_svg(diagram(subject.recipe, subject.model), title, description)


def _ids(subject: Subject, text: str, source: str | None) -> list[list[int]]:
    """The ids of the source, in an encoder-decoder, and of the text.

    Raises:
        UserError: there is no text, it is too long, or a source has no place.
    """
    model, tokenizer = subject.model, subject.tokenizer
    before, after = tokenizer.around("pooled" if model.pooled else model.kind)
    if model.kind != "encoder_decoder":
        if source is not None:
            raise UserError(f"{subject.name}: a model of kind {model.kind} reads one text: leave the source out")
        if not text:
            raise UserError("the text is empty; give at least one character")
        rows = [[*before, *_with_masks(subject, text), *after]]
    else:
        if not (source or text):
            raise UserError("the text is empty; give at least one character")
        read = [*before, *tokenizer.encode(text if source is None else source), *after]
        _check_length(subject, read, "max_length", subject.model.max_length)
        begin = [tokenizer.bos, *tokenizer.encode("" if source is None else text)]
        rows = [read, begin if source is not None else [*begin, *_translation(subject, read, begin)]]
    _check_length(subject, rows[-1], *subject.model.target_limit)
    return rows


def _check_length(subject: Subject, row: Sequence[int], key: str, longest: int) -> None:
    if len(row) > longest:
        raise UserError(
            f"{subject.name}: the text has {len(row)} tokens, but the model's {key} is {longest}; shorten it"
        )


def _check_memory(model: Model, tokens: int) -> None:
    """Check that the values of each step fit into the free memory: scores of all keys are stored, several times.

    Raises:
        TooLargeError: they do not.
    """
    heads = max((one for part in model.modules() if isinstance(one := getattr(part, "heads", 0), int)), default=0)
    numbers = tokens * (STORED_SCORES * heads * tokens + STORED_LOGITS * model.vocab_size)
    device = next(model.parameters()).device
    require_free(4 * numbers, f"explaining {tokens:,} tokens", device, "shorten the text")


def _with_masks(subject: Subject, text: str) -> list[int]:
    tokenizer = subject.tokenizer
    if subject.model.kind != "encoder_only" or BLANK not in text or tokenizer.special.mask is None:
        return tokenizer.encode(text)
    first, *others = text.split(BLANK)
    ids = tokenizer.encode(first)
    for piece in others:
        ids += [tokenizer.special.mask, *tokenizer.encode(piece)]
    return ids


def _translation(subject: Subject, read: list[int], begin: list[int]) -> list[int]:
    """What an encoder-decoder writes greedily, without the token that ends it; a few tokens at most."""
    most = min(WRITTEN, subject.model.target_max_length - len(begin))
    if most < 1 or not subject.trained:
        return []
    (row,) = generate(subject.model, [begin], sources=[read], max_new_tokens=most, eos=subject.tokenizer.eos)
    return [one for one in row if one != subject.tokenizer.eos]


def _run(subject: Subject, recorder: Recorder, rows: list[list[int]]) -> Tensor:
    """The forward pass: logits (T, V), or what the head gives instead."""
    model = subject.model
    ids = [torch.tensor([row], device=next(model.parameters()).device) for row in rows]
    if model.kind == "encoder_decoder":
        memory = model.encode(ids[0])  # pyright: ignore[reportCallIssue]
        recorder.sequence = 1
        return model.decode(ids[1], memory)[0]  # pyright: ignore[reportCallIssue]
    given = {"prefix": torch.ones_like(ids[0], dtype=torch.bool)} if subject.bidirectional_prompt else {}
    return model(*ids, **given)[0]


def _probabilities(steps: list[Step], logits: Tensor, sequence: int) -> Step:
    """The softmax of the logits, over all ids, for the ids that are kept of the logits."""
    found = next(step for step in reversed(steps) if step.value.axes == ("token", "vocabulary"))
    tokens, ids = found.value.index
    given = {"token": tokens, "vocabulary": ids}
    value = sampled(logits.float().softmax(dim=-1), found.value.axes, Limits(), given)
    caption = "The softmax over the whole vocabulary turns logits into probabilities."
    return Step("head", found.block, "probabilities", value, caption, "softmax(L)", found.paper, sequence, of=[found])


def _predictions(subject: Subject, logits: Tensor, limits: Limits) -> list[Prediction]:
    best = logits.float().softmax(dim=-1).topk(min(BEST, logits.shape[-1]), dim=-1)
    found: list[Prediction] = []
    for at in chosen(len(logits), "token", limits):
        pairs = zip(best.indices[at].tolist(), best.values[at].tolist(), strict=True)
        named = tuple((Token(one, subject.tokenizer.name(one)), share) for one, share in pairs)
        found.append(Prediction(at, named))
    return found


def _vocabulary(subject: Subject, steps: list[Step]) -> dict[int, str]:
    ids = {
        one
        for step in steps
        for axis, index in zip(step.value.axes, step.value.index, strict=True)
        if axis == "vocabulary"
        for one in index
    }
    return {one: subject.tokenizer.name(one) for one in sorted(ids)}


def _insert(steps: list[Step], states: list[Step]) -> None:
    """Put the states of mixers before what these return."""
    for state in states:
        at = next((n for n, step in enumerate(steps) if (step.path, step.layer) == (state.path, state.layer)), None)
        ends = [
            n for n, step in enumerate(steps) if (step.path, step.layer, step.name) == (state.path, state.layer, OUTPUT)
        ]
        place = ends[-1] if ends else len(steps) if at is None else at
        steps.insert(place, state)
