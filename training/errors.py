"""What a user can mend."""


class UserError(ValueError):
    """Something that was asked for cannot be done; the message is one line and says what to change."""
