"""Sources of text: installed documentation (`docstrings`), locale data (`cldr`), and the user's own files."""
