"""A folder that transformers loads without this package: the code of a recipe's blocks, and classes around it."""
