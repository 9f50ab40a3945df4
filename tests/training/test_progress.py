from blockformer.training.callbacks.progress import summary

ROW = {"train/loss": 2.5181, "train/bits_per_byte": 3.6333, "train/accuracy": 0.3241, "tokens_per_second": 12086.3}


def test_the_summary_of_a_bar_fits_beside_it_in_80_columns() -> None:
    assert summary(ROW, "train", brief=True) == "loss 2.5181  3.633 bits/byte  12,086 tokens/s"
    assert len(summary(ROW, "train", brief=True)) <= 48


def test_what_is_not_known_is_left_out() -> None:
    assert summary({"val/loss": 1.5, "val/accuracy": 0.25}, "val", brief=True) == "loss 1.5000  accuracy 0.250"
    assert summary({}, "train") == ""
