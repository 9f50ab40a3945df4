"""Call a model with the argument names of transformers."""

from typing import cast

from torch import Tensor, nn

from blocks.models.base import Model
from blocks.models.decoder_only import DecoderOnly
from blocks.models.encoder_decoder import EncoderDecoder
from blocks.models.encoder_only import EncoderOnly


class HuggingFaceNames(nn.Module):
    """Wrap a model so that its arguments have the names that transformers uses.

    There is no ``position_ids``: positions follow from the attention mask and skip padding, as in the original of every
    family.

    Args:
        model: decoder_only, encoder_only or encoder_decoder.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        **features: Tensor,
    ) -> Tensor:
        """Logits (B, T, V).

        Args:
            input_ids: (B, T) ids; the source of an encoder_decoder.
            attention_mask: (B, T), 1 for a token, 0 for padding.
            token_type_ids: (B, T) segment ids, for an encoder_only with segments.
            decoder_input_ids: (B, T) ids of the target of an encoder_decoder, beginning with the start token.
            decoder_attention_mask: (B, T), 1 for a token of the target, 0 for padding.
            features: ids besides those of the tokens that an encoder_only reads.

        Raises:
            ValueError: an argument is missing, or this kind of model does not take it.
        """
        kind, mask = self.model.kind, self.model.mask(attention_mask)
        if kind == "encoder_decoder" and decoder_input_ids is None:
            raise ValueError("decoder_input_ids is required for an encoder_decoder model")
        if kind != "encoder_decoder" and decoder_input_ids is not None:
            raise ValueError(f"decoder_input_ids cannot be used with a model of kind {kind}")
        if kind != "encoder_only" and token_type_ids is not None:
            raise ValueError(f"token_type_ids cannot be used with a model of kind {kind}")
        if kind != "encoder_only" and features:
            raise ValueError(f"{next(iter(features))} cannot be used with a model of kind {kind}")
        if kind == "decoder_only":
            return cast("DecoderOnly", self.model)(input_ids, attention_mask=mask)
        if kind == "encoder_only":
            return cast("EncoderOnly", self.model)(
                input_ids, segments=token_type_ids, attention_mask=mask, features=features
            )
        target_mask = self.model.mask(decoder_attention_mask)
        return cast("EncoderDecoder", self.model)(
            input_ids, cast("Tensor", decoder_input_ids), source_mask=mask, target_mask=target_mask
        )
