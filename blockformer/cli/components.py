"""Importing this registers the components of Blockformer that are no modules, such as datasets and optimizers."""

import blockformer.data.datasets
import blockformer.data.tokenizers
import blockformer.training.evaluations
import blockformer.training.objectives
import blockformer.training.optimizers  # noqa: F401
