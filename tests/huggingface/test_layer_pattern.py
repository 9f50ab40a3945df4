import random

from blockformer.huggingface.layer_pattern import laid_out, listed


def described(names: str) -> dict[str, object]:
    layers = [{"mixer": name} for name in names]
    return {"depth": len(names), **laid_out(layers, [None if name == "?" else name for name in names])}


def test_equal_layers_are_one_layer() -> None:
    assert described("aaa") == {"depth": 3, "layer": {"mixer": "a"}}


def test_a_repetition_is_a_pattern() -> None:
    assert described("aabaab")["pattern"] == ["a", "a", "b"]


def test_what_comes_before_the_repetition_stands_first() -> None:
    stack = described("cababab")
    assert (stack["first"], stack["pattern"]) == (["c"], ["a", "b"])


def test_a_repetition_may_break_off() -> None:
    stack = described("aaabaaabaa")
    assert (stack["pattern"], stack["rest"]) == (["a", "a", "a", "b"], "cut")


def test_different_layers_of_one_name_are_told_apart() -> None:
    stack = laid_out([{"window": 1}, {"window": 2}], ["local", "local"])
    assert stack["layers"] == {"local": {"window": 1}, "local_2": {"window": 2}}


def test_any_order_of_layers_can_be_described_and_read_back() -> None:
    generator = random.Random(0)
    for _ in range(300):
        names = "".join(generator.choice("abc") for _ in range(generator.randint(1, 9)))
        stack = described(names)
        assert [layer["mixer"] for layer in listed(stack)] == list(names), stack
