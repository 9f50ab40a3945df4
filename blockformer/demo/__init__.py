"""Demonstrations: small models that learn something one can see in a few minutes, without a download or a GPU.

They run the same commands that users run, with recipes and configurations that lie beside them, and read the results
from the runs' folders.
"""
