"""Classes that transformers loads and that wrap a model of blocks.

This module is copied into exported folders, so it may import only what is copied as well.
"""

from abc import abstractmethod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    Seq2SeqLMOutput,
    SequenceClassifierOutput,
)

from blocks.base import Cache
from blocks.models.base import Model


class BlockformerConfig(PretrainedConfig):
    """Sizes and special tokens; the architecture is defined by the code in `modeling_blockformer.py`."""

    model_type = "blockformer"


class ModelCache:
    """A cache of blocks with the methods that `generate` calls."""

    is_compileable = False

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens in the cache."""
        return self.cache.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Select rows of the batch, in this order."""
        self.cache.reorder(beam_idx)


class BlockformerModel(PreTrainedModel):
    """Base class: a model of blocks whose weights transformers loads.

    Args:
        config: the content of config.json.
    """

    config_class = BlockformerConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _is_stateful = True  # assisted decoding shortens the cache, which linear attention cannot

    def __init__(self, config: BlockformerConfig) -> None:
        super().__init__(config)
        self.model: Any = self.build()
        if next(self.model.parameters()).device.type != "meta":  # on meta, weights are loaded next
            self.model.initialise()
        self.post_init()

    @abstractmethod
    def build(self) -> Model:
        """Build the model of the recipe."""

    def get_input_embeddings(self) -> nn.Module:
        """The module with the token embeddings."""
        return self.model.embedding.tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the module with the token embeddings."""
        self.model.embedding.tokens = value

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: initial values depend on parameter names, so the constructor sets them for the whole model."""


class BlockformerForMaskedLM(BlockformerModel):
    """An encoder for masked language modeling."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, T, V) of ids (B, T), and the mean loss over labels other than -100."""
        segments = token_type_ids if self.model.embedding.segments is not None else None
        logits = self.model(input_ids, segments=segments, attention_mask=self.model.mask(attention_mask))
        output = MaskedLMOutput(loss=_loss(logits, labels), logits=logits)
        return output if return_dict is not False else output.to_tuple()


class BlockformerForSequenceClassification(BlockformerModel):
    """A model that gives one row of outputs for each text: logits of classes, a score, or an embedding."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Outputs (B, N) of ids (B, T), and the mean loss over labels (B,): of scores the squared error."""
        given = {"segments": token_type_ids} if getattr(self.model.embedding, "segments", None) is not None else {}
        logits = self.model(input_ids, attention_mask=self.model.mask(attention_mask), **given)
        loss = None
        if labels is not None:
            scores = labels.is_floating_point()
            loss = F.mse_loss(logits.squeeze(-1).float(), labels) if scores else F.cross_entropy(logits.float(), labels)
        output = SequenceClassifierOutput(loss=cast("Any", loss), logits=logits)
        return output if return_dict is not False else output.to_tuple()


class _GenerativeModel(BlockformerModel, GenerationMixin):
    """Base class of models that generate text, with a cache of blocks that is created in the first step."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _cache(self, past: ModelCache | None, use_cache: bool | None) -> ModelCache | None:
        new = past is None and use_cache and self.model.allows("cache")
        return ModelCache(self.model.new_cache()) if new else past


class BlockformerForCausalLM(_GenerativeModel):
    """A decoder-only language model."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: ModelCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, T, V) of ids (B, T), which follow those in the cache; the loss is that of the next labels."""
        mask, past = self.model.mask(attention_mask), self._cache(past_key_values, use_cache)
        logits = self.model(
            input_ids,
            attention_mask=None if mask is None else mask[:, -input_ids.shape[1] :],
            positions=position_ids,
            cache=None if past is None else past.cache,
        )
        next_labels = None if labels is None else F.pad(labels, (0, 1), value=-100)[:, 1:]
        output = CausalLMOutputWithPast(
            loss=_loss(logits, next_labels), logits=logits, past_key_values=cast("Any", past)
        )
        return output if return_dict is not False else output.to_tuple()

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        past_key_values: ModelCache | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **unused: Any,
    ) -> dict[str, Any]:
        """Arguments of `forward`, with only the tokens that are not in the cache yet."""
        past = self._cache(past_key_values, use_cache)
        length = 0 if past is None else past.cache.length
        return {"input_ids": input_ids[:, length:], "attention_mask": attention_mask, "past_key_values": past}


class _Encoder(nn.Module):
    """The encoder of a model, as `generate` calls it; it has no parameters of its own."""

    main_input_name = "input_ids"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, so that torch does not register its parameters a second time

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        if options.get("output_attentions") or options.get("output_hidden_states"):
            raise ValueError("output_attentions and output_hidden_states are not supported by this model")
        return BaseModelOutput(last_hidden_state=self._model[0].encode(input_ids, self._model[0].mask(attention_mask)))


class BlockformerForSeq2SeqLM(_GenerativeModel):
    """An encoder-decoder language model."""

    def get_encoder(self, *arguments: Any, **options: Any) -> nn.Module:
        """The encoder as a module."""
        return _Encoder(self.model)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: ModelCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, T, V) of the target, by default the labels shifted right after the start token."""
        if decoder_input_ids is None:
            decoder_input_ids = self._shift_right(labels)
        if encoder_outputs is None and input_ids is None:
            raise ValueError("either input_ids or encoder_outputs is required")
        mask, past = self.model.mask(attention_mask), self._cache(past_key_values, use_cache)
        memory = encoder_outputs[0] if encoder_outputs is not None else self.model.encode(input_ids, mask)
        target = self.model.mask(decoder_attention_mask)
        logits = self.model.decode(
            decoder_input_ids,
            memory,
            mask,
            None if target is None else target[:, -decoder_input_ids.shape[1] :],
            None if past is None else past.cache,
        )
        output = Seq2SeqLMOutput(
            loss=_loss(logits, labels),
            logits=logits,
            past_key_values=cast("Any", past),
            encoder_last_hidden_state=memory,
        )
        return output if return_dict is not False else output.to_tuple()

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        past_key_values: ModelCache | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        use_cache: bool | None = None,
        **unused: Any,
    ) -> dict[str, Any]:
        """Arguments of `forward`, with the encoder's output and the target tokens that are not in the cache yet."""
        past = self._cache(past_key_values, use_cache)
        length = 0 if past is None else past.cache.length
        return {
            "decoder_input_ids": input_ids[:, length:],
            "attention_mask": attention_mask,
            "encoder_outputs": encoder_outputs,
            "past_key_values": past,
        }

    def _shift_right(self, labels: Tensor | None) -> Tensor:
        start = getattr(self.config, "decoder_start_token_id", None)
        if labels is None or start is None:
            raise ValueError(
                "either decoder_input_ids, or labels and a decoder_start_token_id in the config, are required"
            )
        padding = getattr(self.config, "pad_token_id", None) or 0
        first = torch.full_like(labels[:, :1], start)
        return torch.cat([first, labels[:, :-1].masked_fill(labels[:, :-1] == -100, padding)], dim=1)


def _loss(logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """The mean cross entropy over labels other than -100, in float32."""
    if labels is None:
        return None
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten().to(logits.device), ignore_index=-100)
