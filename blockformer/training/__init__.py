"""Training: objectives, the optimizer, the Lightning module, callbacks, loggers and sharded strategies.

Importing this package imports nothing, so that `blockformer --help` stays fast.
"""
