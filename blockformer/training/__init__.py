"""Training: objectives, the optimizer, the Lightning module, callbacks, loggers and sharded strategies.

Importing this package loads neither torch nor Lightning, so that `blockformer --help` stays fast.
"""

from blockformer import lazy_torchmetrics

lazy_torchmetrics.install()  # before a module of this package imports Lightning
