"""Checks of components that are no modules: datasets, tokenizers, objectives, optimizers, schedules and evaluations."""
