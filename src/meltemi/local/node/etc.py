"""The files of /etc that a pod has of its own: hosts, resolv.conf, hostname. Pure."""

from collections.abc import Mapping, Sequence

from meltemi.local.node.podspec import Pod

_LONGEST_NAME = 63


def hostname_of(pod: Pod) -> str:
    """The pod's host name: what it asks for, or its own name cut to what a host name may be."""
    short = _short_name(pod)
    return _full_name(pod) or short if pod.spec.set_hostname_as_fqdn else short


def _short_name(pod: Pod) -> str:
    return pod.spec.hostname or pod.metadata.name[:_LONGEST_NAME].rstrip("-.")


def _full_name(pod: Pod) -> str:
    """Its name in the cluster's domain; empty without a subdomain."""
    if not pod.spec.subdomain:
        return ""
    return f"{_short_name(pod)}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.cluster.local"


def etc_files(pod: Pod, ips: Sequence[str], server: str) -> Mapping[str, str]:
    """Path to text. `server`: the address of the cluster's name server."""
    names = [name for name in (_full_name(pod), _short_name(pod)) if name]
    aliases = [(alias.ip, alias.hostnames) for alias in pod.spec.host_aliases]
    files = {
        "/etc/hostname": f"{hostname_of(pod)}\n",
        "/etc/hosts": hosts_file([*((ip, names) for ip in ips), *aliases]),
    }
    resolver = resolv_conf(pod, server)
    if resolver:
        files["/etc/resolv.conf"] = resolver
    return files


def hosts_file(entries: Sequence[tuple[str, Sequence[str]]]) -> str:
    """/etc/hosts: loopback, then (address, names) in their order."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{ip}\t{' '.join(names)}" for ip, names in entries]
    return "\n".join(lines) + "\n"


def resolv_conf(pod: Pod, server: str, domain: str = "cluster.local") -> str:
    """By dnsPolicy and dnsConfig; empty when the machine's own file holds."""
    policy, config = pod.spec.dns_policy, pod.spec.dns_config
    is_cluster = policy == "ClusterFirstWithHostNet" or (
        policy == "ClusterFirst" and not pod.spec.host_network
    )
    if not is_cluster and policy != "None":
        return ""
    namespace = pod.metadata.namespace
    servers = [server] if is_cluster else []
    searches = [f"{namespace}.svc.{domain}", f"svc.{domain}", domain] if is_cluster else []
    options = {"ndots": "5"} if is_cluster else {}
    servers += [s for s in config.nameservers if s not in servers]
    searches += [s for s in config.searches if s not in searches]
    options |= {option.name: option.value or "" for option in config.options}
    lines = [f"nameserver {s}" for s in servers]
    if searches:
        lines.append(f"search {' '.join(searches)}")
    if options:
        words = [f"{name}:{value}" if value else name for name, value in options.items()]
        lines.append(f"options {' '.join(words)}")
    return "\n".join(lines) + "\n"
