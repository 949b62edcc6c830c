"""The price of an hour of this machine, from the user's configuration."""

from __future__ import annotations

from collections.abc import Iterable

from palinode.base.user_settings import UserSettings

Price = tuple[float, str]  # of an hour, and its currency


def price_here(settings: UserSettings, devices: Iterable[str]) -> Price | None:
    """The price of an hour of this machine, by the name of the device that runs on these devices use; None where it is unknown."""
    if not settings.prices:
        return None
    name = "cpu"
    if set(devices) - {"cpu"}:
        import torch

        name = torch.cuda.get_device_name() if torch.cuda.is_available() else name
    return (settings.prices[name], settings.currency) if name in settings.prices else None
