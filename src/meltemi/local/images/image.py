"""What stands in for a container image."""

from collections.abc import Mapping

import msgspec


class Image(msgspec.Struct, frozen=True):
    """What a container of an image runs when the pod does not say otherwise."""

    command: tuple[str, ...] = ()
    """A command of the machine that stays when the pod gives arguments,"""
    program: str = ""
    """or a built-in program,"""
    arguments: tuple[str, ...] = ()
    """and what the pod's arguments take the place of. Alone it is a whole command."""
    runs_commands: bool = False
    """Arguments that begin with a command run that command instead."""
    is_proxy: bool = False
    """The proxy's image: Envoy, or the capture rules of `istio-init`."""
    tools: Mapping[str, str] = {}
    """Commands of the image that are built-in programs where the machine has none of that name."""
    env: Mapping[str, str] = {}
    directory: str = ""
    root: str = ""
    """The directory of an unpacked image, which its containers have as their root."""
    uid: int = 0
    gid: int = 0
    """The user and group of a container that does not say as whom."""
    user: int = 0
    """The user of a container that asks not to run as root and does not say as whom."""
