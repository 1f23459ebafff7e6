"""From a container of a pod to the process that runs it: pure, but for looking at directories."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from meltemi.local.images.table import Image
from meltemi.local.node.environment import expand
from meltemi.local.node.errors import BadPod
from meltemi.local.node.machine import DEFAULT_CAPABILITIES, NET_ADMIN, PROXY_USER, Machine
from meltemi.local.node.names import hosts_file, pod_resolv_conf
from meltemi.local.node.network import Link
from meltemi.local.node.podspec import Container, Pod, SecurityContext
from meltemi.local.node.process import Mount, Root, Start
from meltemi.local.node.volumes import Volumes
from meltemi.proxy.spec import Launch

ENVOY = "/usr/local/bin/envoy"
"""Where a proxy's container sees the binary, wherever the machine has it."""

_CAPABILITY = {
    name: number
    for number, name in enumerate(
        [
            "CHOWN",
            "DAC_OVERRIDE",
            "DAC_READ_SEARCH",
            "FOWNER",
            "FSETID",
            "KILL",
            "SETGID",
            "SETUID",
            "SETPCAP",
            "LINUX_IMMUTABLE",
            "NET_BIND_SERVICE",
            "NET_BROADCAST",
            "NET_ADMIN",
            "NET_RAW",
            "IPC_LOCK",
            "IPC_OWNER",
            "SYS_MODULE",
            "SYS_RAWIO",
            "SYS_CHROOT",
            "SYS_PTRACE",
            "SYS_PACCT",
            "SYS_ADMIN",
            "SYS_BOOT",
            "SYS_NICE",
            "SYS_RESOURCE",
            "SYS_TIME",
            "SYS_TTY_CONFIG",
            "MKNOD",
            "LEASE",
            "AUDIT_WRITE",
            "AUDIT_CONTROL",
            "SETFCAP",
            "MAC_OVERRIDE",
            "MAC_ADMIN",
            "SYSLOG",
            "WAKE_ALARM",
            "BLOCK_SUSPEND",
            "AUDIT_READ",
            "PERFMON",
            "BPF",
            "CHECKPOINT_RESTORE",
        ]
    )
}


class Place(msgspec.Struct, frozen=True):
    """Where a pod is on the machine."""

    link: Link
    hostname: str
    directory: Path


def app_start(
    machine: Machine,
    pod: Pod,
    container: Container,
    image: Image,
    *,
    env: Mapping[str, str],
    volumes: Volumes,
    place: Place,
) -> Start:
    """The process of an application container. Raises BadPod."""
    command = tuple(expand(part, env) for part in container.command)
    args = tuple(expand(part, env) for part in container.args)
    program, argv = "", command + args
    if not command:
        program, argv = image.program, (args or image.command[1:])
        if not program:
            argv = (*image.command[:1], *argv)
        elif not args:
            argv = ()
    context = _merged(pod.spec.security_context, container.security_context)
    uid, gid = (context.run_as_user or 0, context.run_as_group or 0)
    if context.run_as_non_root and not uid:
        raise BadPod(f"container {container.name}: runAsNonRoot is set, but runAsUser is not")
    if not machine.is_root:
        uid = gid = 0
    groups = context.supplemental_groups
    if context.fs_group is not None:
        groups = (*groups, context.fs_group)
    return Start(
        id=0,
        argv=argv,
        program=program,
        env=env,
        cwd=container.working_dir or image.directory or "/",
        uid=uid,
        gid=gid,
        groups=groups,
        capabilities=_capabilities(context),
        no_new_privileges=context.allow_privilege_escalation is False,
        network=place.link.path if not pod.spec.host_network else "",
        hostname=place.hostname,
        root=Root(
            layer=str(place.directory / "layers" / container.name),
            files=_files(machine, pod, place),
            mounts=_mounts(container, volumes),
            hidden=(str(machine.home.root),),
            readonly=context.read_only_root_filesystem,
        ),
    )


def proxy_start(
    machine: Machine,
    pod: Pod,
    container: Container,
    launch: Launch,
    *,
    directory: Path,
    place: Place,
) -> Start:
    """The process of an istio-proxy container: Envoy, which sees its own directory and xDS."""
    home = machine.home
    xds = str(home.xds_socket.parent)
    binary, *argv = launch.argv
    uid = PROXY_USER if machine.is_root else 0
    return Start(
        id=0,
        argv=(ENVOY, *argv),
        env=launch.env,
        uid=uid,
        gid=uid,
        capabilities=() if machine.is_root else (NET_ADMIN,),
        no_new_privileges=True,
        network=place.link.path,
        hostname=place.hostname,
        root=Root(
            layer=str(place.directory / "layers" / container.name),
            files=_files(machine, pod, place),
            mounts=(
                Mount(xds, xds, readonly=True),
                Mount(str(directory), str(directory)),
                Mount(binary, ENVOY, readonly=True),
            ),
            hidden=(_closed(home.root),),
        ),
    )


def joined_start(
    start: Start, pid: int, argv: tuple[str, ...], *, program: str = "", tty: bool = False
) -> Start:
    """A further process in a running container, as exec and exec probes want it."""
    return msgspec.structs.replace(
        start, argv=argv, program=program, join=pid, tty=tty, root=None, network=""
    )


def _merged(pod: SecurityContext, container: SecurityContext | None) -> SecurityContext:
    """The container's settings over the pod's."""
    if container is None:
        return pod
    inherited = {
        name: getattr(pod, name)
        for name in ("run_as_user", "run_as_group", "run_as_non_root", "fs_group")
        if getattr(container, name) is None
    }
    inherited["supplemental_groups"] = pod.supplemental_groups
    return msgspec.structs.replace(container, **inherited)


def _capabilities(context: SecurityContext) -> tuple[int, ...]:
    if context.privileged:
        return tuple(_CAPABILITY.values())
    drop = {name.removeprefix("CAP_") for name in context.capabilities.drop}
    kept = set() if "ALL" in drop else set(DEFAULT_CAPABILITIES)
    kept -= {_CAPABILITY[name] for name in drop if name in _CAPABILITY}
    for name in context.capabilities.add:
        if name == "ALL":
            kept |= set(_CAPABILITY.values())
        elif name.removeprefix("CAP_") in _CAPABILITY:
            kept.add(_CAPABILITY[name.removeprefix("CAP_")])
    return tuple(sorted(kept))


def _files(machine: Machine, pod: Pod, place: Place) -> dict[str, str]:
    spec, meta = pod.spec, pod.metadata
    aliases = {alias.ip: alias.hostnames for alias in spec.host_aliases}
    names = [place.hostname]
    if spec.subdomain:
        names.insert(0, f"{place.hostname}.{spec.subdomain}.{meta.namespace}.svc.cluster.local")
    files = {
        "/etc/hostname": f"{place.hostname}\n",
        "/etc/hosts": hosts_file({place.link.ip: names, **aliases}),
    }
    if spec.dns_policy != "Default":
        base = pod_resolv_conf(meta.namespace, machine.host_ip) if spec.dns_policy != "None" else ""
        extra = [f"nameserver {server}" for server in spec.dns_config.nameservers]
        if spec.dns_config.searches:
            extra.append(f"search {' '.join(spec.dns_config.searches)}")
        for option in spec.dns_config.options:
            tail = f":{option.value}" if option.value is not None else ""
            extra.append(f"options {option.name}{tail}")
        files["/etc/resolv.conf"] = base + "".join(f"{line}\n" for line in extra)
    return files


def _mounts(container: Container, volumes: Volumes) -> tuple[Mount, ...]:
    return tuple(
        Mount(str(volumes.source(container, m.name, m.sub_path)), m.mount_path, m.read_only)
        for m in container.volume_mounts
    )


def _closed(path: Path) -> str:
    """The topmost directory on the way to a path that other users may not enter; else the path."""
    for part in (*reversed(path.parents), path):
        if part != Path("/") and not os.stat(part).st_mode & 0o001:
            return str(part)
    return str(path)
