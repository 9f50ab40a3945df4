import pytest
import torch

from blockformer import build
from blockformer.huggingface import HuggingFaceNames

SIZES = {"dim": 16, "vocab_size": 11, "max_length": 8}
STACK = {"depth": 1}
IDS, MASK = torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])


def test_a_decoder_takes_the_argument_names_of_transformers() -> None:
    model = build({"type": "decoder_only", **SIZES, "decoder": STACK}).eval()
    theirs = HuggingFaceNames(model)(input_ids=IDS, attention_mask=MASK)
    assert torch.equal(theirs, model(IDS, attention_mask=MASK.bool()))


def test_an_encoder_takes_token_types() -> None:
    model = build({"type": "encoder_only", **SIZES, "encoder": STACK, "embedding": {"segments": 2}}).eval()
    theirs = HuggingFaceNames(model)(input_ids=IDS, attention_mask=MASK, token_type_ids=MASK)
    assert torch.equal(theirs, model(IDS, segments=MASK, attention_mask=MASK.bool()))


def test_an_encoder_decoder_takes_decoder_input_ids() -> None:
    model = build({"type": "encoder_decoder", **SIZES, "encoder": STACK, "decoder": STACK}).eval()
    target = torch.tensor([[1, 2], [1, 3]])
    theirs = HuggingFaceNames(model)(input_ids=IDS, attention_mask=MASK, decoder_input_ids=target)
    assert torch.equal(theirs, model(IDS, target, source_mask=MASK.bool()))
    with pytest.raises(ValueError, match="decoder_input_ids is required"):
        HuggingFaceNames(model)(input_ids=IDS)


def test_arguments_of_another_kind_of_model_are_rejected() -> None:
    model = build({"type": "decoder_only", **SIZES, "decoder": STACK})
    with pytest.raises(ValueError, match="token_type_ids cannot be used"):
        HuggingFaceNames(model)(input_ids=IDS, token_type_ids=MASK)
    with pytest.raises(ValueError, match="decoder_input_ids cannot be used"):
        HuggingFaceNames(model)(input_ids=IDS, decoder_input_ids=IDS)
