"""Text for training: corpora, tokenizers, batches and the Lightning data module that puts them together."""

from blockformer import lazy_torchmetrics

lazy_torchmetrics.install()  # before a module of this package imports Lightning
