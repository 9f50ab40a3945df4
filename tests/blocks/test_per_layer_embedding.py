"""Token vectors of each layer, against the original of Gemma 4."""

import pytest
import torch
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextModel

from blocks.base import Context, Site
from blocks.mixers.per_layer_embedding import PerLayerEmbedding

DIM, WIDTH, SIZE = 16, 6, 11


def block() -> PerLayerEmbedding:
    torch.manual_seed(0)
    made = PerLayerEmbedding(Site(dim=DIM), width=WIDTH, vocab_size=SIZE)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


@torch.no_grad()
def test_the_vectors_of_a_token_are_those_of_the_original() -> None:
    config = Gemma4TextConfig(
        vocab_size=SIZE,
        hidden_size=DIM,
        num_hidden_layers=1,
        layer_types=["full_attention"],
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        global_head_dim=8,
        intermediate_size=8,
        num_kv_shared_layers=0,
        vocab_size_per_layer_input=SIZE,
        hidden_size_per_layer_input=WIDTH,
    )
    theirs, ours, x = Gemma4TextModel(config), block(), torch.randn(2, 5, DIM)
    theirs.embed_tokens_per_layer.weight.copy_(ours.table.weight)
    theirs.per_layer_model_projection.weight.copy_(ours.project.weight)
    theirs.per_layer_projection_norm.weight.copy_(ours.norm.weight)
    tokens, inputs = torch.randint(SIZE, (2, 5)), torch.randn(2, 5, DIM)
    vectors = theirs.project_per_layer_inputs(inputs, theirs.get_per_layer_inputs(tokens))[:, :, 0]
    context = Context.of(tokens)
    context.inputs = inputs
    expected = ours.out(torch.nn.functional.gelu(ours.gate(x), approximate="tanh") * vectors)
    torch.testing.assert_close(ours(x, context), expected, rtol=1e-4, atol=1e-4)  # eps is of another size


@torch.no_grad()
def test_ids_beyond_the_table_have_the_vector_of_id_0() -> None:
    ours, x, tokens = block(), torch.randn(1, 3, DIM), torch.tensor([[2, SIZE, SIZE + 5]])
    context, zeros = Context.of(tokens), Context.of(torch.tensor([[2, 0, 0]]))
    context.inputs = zeros.inputs = torch.randn(1, 3, DIM)
    torch.testing.assert_close(ours(x, context), ours(x, zeros), rtol=0, atol=0)


def test_it_needs_the_ids_of_the_tokens_and_their_first_vectors() -> None:
    x = torch.randn(1, 3, DIM)
    with pytest.raises(ValueError, match="reads token ids, but the model was given vectors"):
        block()(x, Context.of(x))
    with pytest.raises(ValueError, match="reads the vectors that its stack begins with"):
        block()(x, Context.of(torch.zeros(1, 3, dtype=torch.long)))
