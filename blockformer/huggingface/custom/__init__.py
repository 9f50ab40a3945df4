"""Export a model with the code of its blocks, for recipes that no class of transformers supports."""
