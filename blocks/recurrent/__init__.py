"""Recurrent mixers: their state has a fixed size, independent of the sequence length."""
