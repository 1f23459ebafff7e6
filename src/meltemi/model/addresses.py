"""The one spelling of an address: an IPv6 address may be written in many ways, and what stands in
objects is compared with what connections and requests say."""

import ipaddress


def canonical(text: str) -> str:
    """An address or a CIDR as everybody else writes it; one of a single address is that address,
    and what is neither stays as it is."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return text
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)
