import random

from blockformer.huggingface.template import compress_layers, expand_layers


def described(names: str) -> dict[str, object]:
    layers = [{"mixer": name} for name in names]
    return {"depth": len(names), **compress_layers(layers, [None if name == "?" else name for name in names])}


def test_equal_layers_are_one_layer() -> None:
    assert described("aaa") == {"depth": 3, "layer": {"mixer": "a"}}


def test_a_repetition_is_a_pattern() -> None:
    assert described("aabaab")["pattern"] == ["a", "a", "b"]


def test_layers_before_the_repetition_are_listed_in_first() -> None:
    stack = described("cababab")
    assert (stack["first"], stack["pattern"]) == (["c"], ["a", "b"])


def test_the_last_repetition_may_be_incomplete() -> None:
    stack = described("aaabaaabaa")
    assert (stack["pattern"], stack["rest"]) == (["a", "a", "a", "b"], "cut")


def test_different_layers_with_one_name_get_numbers() -> None:
    stack = compress_layers([{"window": 1}, {"window": 2}], ["local", "local"])
    assert stack["layers"] == {"local": {"window": 1}, "local_2": {"window": 2}}


def test_any_order_of_layers_survives_a_round_trip() -> None:
    generator = random.Random(0)
    for _ in range(300):
        names = "".join(generator.choice("abc") for _ in range(generator.randint(1, 9)))
        stack = described(names)
        assert [layer["mixer"] for layer in expand_layers(stack)] == list(names), stack
