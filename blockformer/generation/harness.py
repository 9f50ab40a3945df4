"""Evaluate a trained model with EleutherAI's lm-evaluation-harness, without an export."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from blockformer.errors import UserError
from blockformer.generation.harness_tasks import figure_name, naming_bad_tasks, task_manager
from blockformer.generation.sampling import greedy, sampler
from blockformer.generation.streaming import stream
from blockformer.generation.text_model import TextModel

NEW_TOKENS = 256
"""Most tokens that are generated where a task does not say."""
KINDS = {"decoder_only": "causal", "encoder_decoder": "seq2seq"}
"""The kinds of models that the harness can score, by its names."""
Request = tuple[Any, list[int], list[int]]


def evaluate(
    model: TextModel,
    tasks: Sequence[str],
    *,
    batch_size: int = 16,
    examples: int | None = None,
    limit: int | None = None,
    include: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Score a model on tasks of the harness.

    Args:
        model: a decoder_only or encoder_decoder.
        tasks: names of the harness's tasks, or of those in `include`.
        batch_size: requests in a batch.
        examples: solved examples before each question (few-shot); None: as the task says.
        limit: questions of each task; None: all.
        include: a folder with task files (YAML) of one's own.

    Returns:
        For each task its figures by name, such as `acc` and `acc_stderr`, and the number of its `questions`.

    Raises:
        UserError: there is no such task, its data cannot be had, the model cannot be scored, or an argument is out of
            its range; the message names the option of `blockformer evaluate`.
    """
    for option, value, least in (("batch-size", batch_size, 1), ("limit", limit, 1), ("examples", examples, 0)):
        if value is not None and value < least:
            raise UserError(f"--{option} {value}: must be at least {least}")
    known = task_manager(tasks, include)
    adapter = HarnessModel(model, batch_size)
    with naming_bad_tasks():
        found: Any = cast("Any", simple_evaluate)(
            adapter,
            tasks=list(tasks),
            num_fewshot=examples,
            limit=limit,
            task_manager=known,
            bootstrap_iters=1000,
            log_samples=False,
        )
    return {name: _figures(figures, found["n-samples"].get(name)) for name, figures in found["results"].items()}


def _figures(found: Mapping[str, Any], samples: Mapping[str, int] | None) -> dict[str, Any]:
    """The figures of a task by plain names: `acc`, and `acc (strict)` where another filter than none was used."""
    figures: dict[str, Any] = {}
    for key, value in found.items():
        name, _, kind = key.partition(",")
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("alias", "sample_len"):
            figures[figure_name(name, kind)] = value
    return figures | ({"questions": samples["effective"]} if samples else {})


def check_kind(kind: str) -> None:
    """Check that the harness can score a kind of model.

    Raises:
        UserError: it cannot.
    """
    if kind not in KINDS:
        raise UserError(f"an {kind} model computes no probability of a text, which the harness needs")


class HarnessModel(TemplateLM):
    """The interface that the harness needs of a model, implemented by a :class:`TextModel`.

    Texts are encoded as :class:`TextModel` does: after a start token, and for an encoder before an end token. Of a
    context that is too long the end is read, as the harness does with other models.

    Args:
        model: a decoder_only or encoder_decoder with its tokenizer.
        batch_size: requests in a batch.

    Raises:
        UserError: the model is an encoder, which computes no probability of a text.
    """

    def __init__(self, model: TextModel, batch_size: int) -> None:
        super().__init__()
        check_kind(model.model.kind)
        self.backend = KINDS[model.model.kind]
        padded = self.backend == "causal" or model.model.allows("padding")
        self._text, self.model, self.batch_size = model, model.model, batch_size if padded else 1
        self.max_length = model.model.max_length
        self.target_max_length = model.model.target_max_length
        self._device = next(model.model.parameters()).device

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._text.tokenizer.eos

    @property
    def prefix_token_id(self) -> int:
        """The token before the first one of a text."""
        return self._text.tokenizer.bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text; ``add_special_tokens=False``: without those that the model's input has around it."""
        if add_special_tokens is False:
            return self._text.tokenizer.encode(string)
        return self._text.encode(string)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, each token given as many before it as the model can read."""
        windows: list[tuple[int, Request]] = []
        for number, request in enumerate(requests):
            ids = self._text.tokenizer.encode(request.args[0])
            rolled = get_rolling_token_windows(ids, self.prefix_token_id, self.target_max_length, 1)
            windows += [(number, (None, *make_disjoint_window(window))) for window in rolled]
        totals = [0.0] * len(requests)
        scores = self._loglikelihood_tokens([window for _, window in windows])
        for (number, _), (score, _) in zip(windows, scores, strict=True):
            totals[number] += score
        return totals

    @torch.inference_mode()
    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        """For each context and continuation the latter's log-likelihood, and whether greedy decoding would give it."""
        longest = max((len(continuation) for *_, continuation in requests), default=0)
        if longest > self.target_max_length:
            raise UserError(f"an answer has {longest} tokens, and the model writes at most {self.target_max_length}")
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        order = sorted(range(len(requests)), key=lambda place: -len(requests[place][1]) - len(requests[place][2]))
        for begin in range(0, len(order), self.batch_size):
            places = order[begin : begin + self.batch_size]
            for place, score in zip(places, self._scores([requests[place] for place in places]), strict=True):
                results[place] = score
        return results

    def _scores(self, requests: Sequence[Request]) -> Iterator[tuple[float, bool]]:
        if self.backend == "seq2seq":
            read = [[self.prefix_token_id, *continuation[:-1]] for *_, continuation in requests]
            logits = self._logits(read, [list(context)[-self.max_length :] for _, context, _ in requests])
        else:
            read = [[*context, *continuation][-(self.max_length + 1) : -1] for _, context, continuation in requests]
            given = [len(row) - len(continuation) + 1 for row, (*_, continuation) in zip(read, requests, strict=True)]
            logits = self._logits(read, None, given)
        for (_, _, continuation), row, tokens in zip(requests, logits, read, strict=True):
            scored = row[len(tokens) - len(continuation) : len(tokens)].float().log_softmax(-1)
            targets = torch.tensor(continuation, device=scored.device)
            chosen = scored.gather(-1, targets[:, None]).double().sum()
            yield float(chosen), bool((scored.argmax(-1) == targets).all())

    def _logits(
        self,
        rows: Sequence[Sequence[int]],
        sources: Sequence[Sequence[int]] | None,
        given: Sequence[int] = (),
    ) -> Tensor:
        """(B, T, V) logits of rows that are padded on the right, of which the first ``given`` tokens are a prompt."""
        tokens, mask = self._padded(rows)
        if sources is not None:
            source, source_mask = self._padded(sources)
            return self.model(source, tokens, source_mask=source_mask, target_mask=mask)
        prefix = None
        if self._text.bidirectional_prompt:
            prompts = torch.tensor(given, device=self._device)
            prefix = torch.arange(tokens.shape[1], device=self._device) < prompts[:, None]
        return self.model(tokens, attention_mask=mask if self.model.allows("padding") else None, prefix=prefix)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows))
        pad = self._text.tokenizer.pad
        tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=self._device)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        return tokens, torch.arange(width, device=self._device) < lengths[:, None]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue each text until a stop string, an end token or the most tokens that a task allows."""
        return [self._generated(*request.args) for request in requests]

    def _generated(self, context: str, options: Mapping[str, Any]) -> str:
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        most = int(options.get("max_gen_toks", options.get("max_new_tokens", NEW_TOKENS)))
        most = min(most, self.target_max_length - 1)
        choose = greedy
        if options.get("do_sample") and (temperature := float(options.get("temperature", 1.0))) > 0:
            choose = sampler(temperature=temperature, top_k=options.get("top_k"), top_p=options.get("top_p"))
        ids = self.tok_encode(context)
        if self.backend == "seq2seq":
            prompts, sources = [[self.prefix_token_id]], [ids[-self.max_length :]]
        else:
            prompts, sources = [ids[-(self.max_length - most) :]], None
        text, decoder = "", self._text.tokenizer.stream(prompts[0])
        steps = stream(
            self.model,
            prompts,
            max_new_tokens=most,
            sources=sources,
            eos=self.eot_token_id,
            choose=choose,
            bidirectional_prompt=self._text.bidirectional_prompt,
        )
        for (token,) in steps:
            text += "" if token is None else decoder.feed(token)
            if any(stop in text for stop in stops):
                break
        else:
            text += decoder.end()
        return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]
