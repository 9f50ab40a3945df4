"""What is wrong with the user's data, said in one line."""


class DataError(ValueError):
    """A mistake in the data or its settings that the user can mend; `str()` is one line for the terminal."""
