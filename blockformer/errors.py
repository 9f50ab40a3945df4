"""Errors that a user can correct. Each message is one line that says what is wrong and what to change."""


class UserError(ValueError):
    """A request cannot be carried out as given."""


class DataError(UserError):
    """Training data or its settings cannot be used."""
