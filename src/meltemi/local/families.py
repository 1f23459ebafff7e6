"""The families of addresses, in Kubernetes' words."""

import ipaddress

IPV4, IPV6 = "IPv4", "IPv6"


def family_of(text: str) -> str:
    """Of an address; empty for what is none. A zone (`fe80::1%eth0`) means something on one
    machine only, and may hold any text: an address with one is none here."""
    try:
        version = ipaddress.ip_address(text).version if "%" not in text else 0
    except ValueError:
        return ""
    return {4: IPV4, 6: IPV6}.get(version, "")
