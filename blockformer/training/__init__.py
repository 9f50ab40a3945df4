"""Train what recipes describe: data, objectives, the Lightning module, logging and the command line.

The only room that imports Lightning and Weights & Biases. Importing the package itself imports nothing heavy, so that
`blockformer --help` answers at once.
"""
