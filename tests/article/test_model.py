"""Sections 3.1, 3.3 and 3.4: the layers, the feed-forward, the embeddings, and writing one token after another."""

import torch
from torch import Tensor

import blockformer as bf
from blockformer.conformance import BlockCase
from blocks.base import Context
from blocks.models.encoder_decoder import EncoderDecoder


def translator(**overrides: object) -> EncoderDecoder:
    model = bf.build("tiny_encoder_decoder", overrides, seed=0).double().eval()
    assert isinstance(model, EncoderDecoder)
    return model


def ids(time: int, seed: int, rows: int = 2) -> Tensor:
    return torch.randint(260, (rows, time), generator=torch.Generator().manual_seed(seed))


def test_a_sublayer_s_output_is_norm_of_x_plus_sublayer_of_x() -> None:
    model, x = translator(), torch.randn(2, 5, 32, dtype=torch.float64)
    layer, context = model.encoder.layers[0], Context.of(x)
    first = layer.mixer_residual.norm(x + layer.mixer(x, context))
    second = layer.feedforward_residual.norm(first + layer.feedforward(first))
    torch.testing.assert_close(layer(x, context), second)


def test_the_decoder_has_a_third_sublayer_between_the_two() -> None:
    model, x = translator(), torch.randn(2, 5, 32, dtype=torch.float64)
    layer, context = model.decoder.layers[0], Context.of(x)
    context.memory = torch.randn(2, 7, 32, dtype=torch.float64)
    first = layer.mixer_residual.norm(x + layer.mixer(x, context))
    second = layer.cross_residual.norm(first + layer.cross(first, context))
    third = layer.feedforward_residual.norm(second + layer.feedforward(second))
    torch.testing.assert_close(layer(x, context), third)


def test_after_the_norm_every_vector_has_the_same_mean_and_size() -> None:
    model = translator()
    with torch.no_grad():
        y = model.encode(ids(6, 0))
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, 6, dtype=torch.float64), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(y.var(-1, correction=0), torch.ones(2, 6, dtype=torch.float64), rtol=0.0, atol=1e-3)


def test_the_feedforward_acts_on_each_position_alone_and_alike() -> None:
    block = BlockCase("feedforward", "mlp").build_perturbed()
    x = torch.randn(1, 6, 32, dtype=torch.float64)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])
    torch.testing.assert_close(block(x[:, 2:3]), block(x)[:, 2:3])


def test_embeddings_are_multiplied_by_the_root_of_the_width() -> None:
    model, tokens = translator(), ids(4, 0)
    positions = model.embedding.positions.encode(torch.arange(4))
    expected = model.embedding.table[tokens] * 32**0.5 + positions
    torch.testing.assert_close(model.embedding(tokens, Context.of(tokens)), expected.to(torch.float64))


def test_so_that_tokens_and_positions_are_of_one_size() -> None:
    model = translator()
    token_size = (model.embedding.table * 32**0.5).square().mean().sqrt()
    position_size = model.embedding.positions.encode(torch.arange(50)).square().mean().sqrt()
    assert 0.5 < float(token_size.detach() / position_size) < 2.0


def test_both_embeddings_and_the_output_are_one_matrix() -> None:
    model = translator()
    assert model.target_embedding.table.data_ptr() == model.embedding.table.data_ptr()
    x = torch.randn(1, 1, 32, dtype=torch.float64)
    torch.testing.assert_close(model.head(x, model.target_embedding.table), x @ model.embedding.table.T)


def test_a_prediction_knows_the_target_before_it_and_all_of_the_source() -> None:
    model, source, target = translator(), ids(5, 0), ids(6, 1)
    before = model(source, target)
    later = target.clone()
    later[:, 4:] = (later[:, 4:] + 1) % 260
    assert torch.equal(model(source, later)[:, :4], before[:, :4]), "the future is hidden"
    for time in range(5):
        other = source.clone()
        other[:, time] = (other[:, time] + 1) % 260
        changed = (model(other, target) != before).any(-1)
        assert bool(changed.all()), "every prediction depends on every source token"


def test_writing_token_by_token_is_teacher_forcing_on_one_s_own_words() -> None:
    model, source = translator(), ids(5, 0)
    memory, cache = model.encode(source), model.new_cache()
    written = torch.zeros(2, 1, dtype=torch.long)
    for _ in range(8):
        logits = model.decode(written[:, -1:], memory, cache=cache)
        written = torch.cat([written, logits[:, -1:].argmax(-1)], dim=1)
    forced = model(source, written[:, :-1]).argmax(-1)
    assert torch.equal(forced, written[:, 1:])


def test_the_base_model_has_about_the_parameters_of_table_3() -> None:
    with torch.device("meta"):
        size = bf.build("transformer", device="meta").size
    assert 0.95 < size / 65e6 < 1.0, "the table says 65 million"
