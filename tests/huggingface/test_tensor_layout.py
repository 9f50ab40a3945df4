import pytest
import torch

from blockformer.huggingface.tensor_layout import Layout, Rearrangement

D, HEAD = 6, 4


def rows(count: int, offset: int = 0) -> torch.Tensor:
    return torch.arange(offset, offset + count * D).reshape(count, D)


@pytest.mark.parametrize(
    ("layout", "shapes"),
    [
        (Layout(), [(5, D)]),
        (Layout(transpose=True), [(5, D)]),
        (Layout(), [(8, D), (4, D), (4, D)]),
        (Layout(transpose=True), [(8, D), (8, D), (8, D)]),
        (Layout(groups=2), [(8, D), (8, D), (8, D)]),
        (Layout(groups=2), [(16, D), (8, D), (8, D)]),
        (Layout(groups=2), [(16,), (8,), (8,)]),
        (Layout(axis=1), [(3, 8, D), (3, 8, D)]),
        (Layout(axis=1, groups=8, transpose=True), [(3, 8, D), (3, 8, D)]),
        (Layout(reshape=(1, -1)), [(7,)]),
        (Layout(reshape=(-1, 8), transpose=True), [(3, 8, D)]),
        (Layout(reshape=(3, 2, -1)), [(8, D), (4, D)]),
        (Layout(rearrange=Rearrangement("(e f) d -> e f d", {"e": 3}), transpose=True), [(3, 8, D)]),
        (Layout(times=0.5), [(4, D), (8, D)]),
    ],
)
def test_split_is_the_inverse_of_join(layout: Layout, shapes: list[tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(shape, generator=generator) for shape in shapes]
    stored = layout.join(parameters)
    assert stored.numel() == sum(parameter.numel() for parameter in parameters)
    for before, after in zip(parameters, layout.split(stored, shapes), strict=True):
        assert torch.equal(before, after)


def test_without_groups_join_concatenates() -> None:
    q, k, v = rows(8), rows(4, 100), rows(4, 200)
    assert torch.equal(Layout().join([q, k, v]), torch.cat([q, k, v]))


def test_each_group_holds_the_query_key_and_value_of_a_head() -> None:
    q, k, v = rows(2 * HEAD), rows(2 * HEAD, 100), rows(2 * HEAD, 200)
    stored = Layout(groups=2).join([q, k, v]).view(2, 3, HEAD, D)
    assert torch.equal(stored[1, 0], q[HEAD:])
    assert torch.equal(stored[0, 2], v[:HEAD])


def test_experts_below_one_another_are_viewed_before_they_are_transposed() -> None:
    experts = torch.randn(3, 4, D)  # each (in, out)
    layout = Layout(reshape=(-1, D), transpose=True)
    (parameter,) = layout.split(experts.flatten(0, 1), [(3, D, 4)])
    assert torch.equal(parameter, experts.mT)


def test_a_parameter_is_the_stored_tensor_times_a_number() -> None:
    (parameter,) = Layout(times=4.0).split(torch.ones(2, 3), [(2, 3)])
    assert torch.equal(parameter, torch.full((2, 3), 4.0))


def test_one_group_per_row_interleaves_rows() -> None:
    gate, up = rows(3), rows(3, 100)
    stored = Layout(groups=3).join([gate, up])
    assert torch.equal(stored[::2], gate)
    assert torch.equal(stored[1::2], up)


@pytest.mark.parametrize(
    ("layout", "shape", "wish", "message"),
    [
        (Layout(), (5, D), [(4, D)], r"has shape \(5, 6\); expected \(4, 6\)"),
        (Layout(), (5, D), [(4, D), (4, D)], r"has size 5 on axis 0; expected 4 \+ 4"),
        (Layout(reshape=(7, 13)), (5, D), [(5, D)], r"cannot be \[7, 13\]: its parameters have 30 elements"),
        (Layout(reshape=(-1,)), (5, D), [(5, D)], r"has shape \(5, 6\); expected \(30,\)"),
        (Layout(reshape=(-1,), transpose=True), (5, D), [(5, D)], r"has shape \(5, 6\); expected \(30,\)"),
        (Layout(axis=2), (5, D), [(5, D), (5, D)], "cannot be split along axis 2"),
        (Layout(), (9, D), [(4, D), (5, 7)], "holds parameters of shapes"),
        (Layout(groups=3), (8, D), [(4, D), (4, D)], "size 4 is not divisible by groups=3"),
    ],
)
def test_sizes_that_do_not_match_are_errors(
    layout: Layout, shape: tuple[int, ...], wish: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        layout.split(torch.zeros(shape), wish)
