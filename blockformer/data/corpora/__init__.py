"""Where text comes from: what is installed anyway (`docstrings`, `cldr`) and the user's own files."""
