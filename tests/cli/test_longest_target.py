"""Commands that measure sequences of one length keep to the shorter of the longest source and the longest target."""

import pytest

from blockformer.cli.main import main

MODEL = ["tiny_encoder_decoder", "--set", "target_max_length=4", "--set", "embedding.positions=learned"]


@pytest.mark.parametrize("command", [["show", *MODEL, "--activations"], ["show", *MODEL, "--memory"], ["plan", *MODEL]])
def test_the_default_length_fits_both(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", [["show", *MODEL, "--memory"], ["plan", *MODEL]])
def test_a_longer_one_is_refused_by_the_name_of_the_key(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--length", "9"]) == 2
    assert "--length 9 is above the model's target_max_length of 4" in capsys.readouterr().err


def test_runs_train_on_rows_that_fit_both(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--recipe.target_max_length", "24", "--recipe.embedding.positions", "learned"]
    command = ["fit", "--recipe", "tiny_encoder_decoder", *changes, "--print_config"]
    with pytest.raises(SystemExit, match="0"):
        main(command)
    assert "\n  length: 24\n" in capsys.readouterr().out
