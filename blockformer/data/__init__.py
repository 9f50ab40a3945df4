"""Text for training: corpora, tokenizers, batches and the Lightning data module that puts them together."""
