"""The device on which a trained model runs."""

import torch

from blockformer.errors import UserError


def usable_device(name: str | None) -> str:
    """The device that is asked for, or a GPU if there is one.

    Raises:
        UserError: it cannot be used.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    shown = name[:60] if name.isprintable() and name else repr(name[:60])
    try:
        computes = torch.zeros(1, device=name).add(1).item() == 1  # false on devices without values, such as meta
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises all of them
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"--device {shown} cannot be used: {reason}") from None
    if not computes:
        raise UserError(f"--device {shown} cannot be used: it stores no values")
    return name
