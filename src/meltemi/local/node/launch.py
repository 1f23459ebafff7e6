"""From a container of a pod to the process that runs it: pure, but for looking at directories."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from meltemi.local.images.image import Image
from meltemi.local.node.cgroups import Wanted
from meltemi.local.node.environment import PATH, expand, quantity
from meltemi.local.node.errors import BadPod
from meltemi.local.node.etc import etc_files, hostname_of
from meltemi.local.node.machine import DEFAULT_CAPABILITIES, NET_ADMIN, PROXY_USER, Machine
from meltemi.local.node.network import Link
from meltemi.local.node.podspec import Container, Pod, SecurityContext
from meltemi.local.node.process import Mount, Root, Start
from meltemi.local.node.volumes import Owner, Volumes
from meltemi.proxy.spec import Launch

ENVOY = "/usr/local/bin/envoy"
"""Where a proxy's container sees the binary, wherever the machine has it."""
NOBODY = 65532
"""The user of a container that must not run as root and does not say as whom."""

_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP "
    "LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER "
    "SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
    "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF "
    "CHECKPOINT_RESTORE"
)
"""In the order of their numbers."""
_CAPABILITY = {name: number for number, name in enumerate(_CAPABILITIES.split())}


class Place(msgspec.Struct, frozen=True):
    """Where a pod is on the machine."""

    link: Link
    directory: Path

    def message(self, container: str) -> Path:
        """The file behind a container's `terminationMessagePath`."""
        return self.directory / "messages" / container


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
    program, argv = _command(container, image, env)
    context = _merged(pod.spec.security_context, container.security_context)
    uid, gid, groups = _user(machine, container, context, image)
    tools = {name: tool for name, tool in image.tools.items() if not _has_machine(name)}
    return Start(
        id=0,
        argv=argv,
        program=program,
        programs=tools,
        env=env,
        cwd=container.working_dir or image.directory or "/",
        uid=uid,
        gid=gid,
        groups=groups,
        capabilities=_capabilities(context),
        no_new_privileges=context.allow_privilege_escalation is False,
        network=place.link.path,
        hostname=hostname_of(pod),
        cgroups=machine.cgroups.make(pod.metadata.uid, container.name, _limits(container)),
        root=Root(
            base=image.root,
            layer=str(place.directory / "layers" / container.name),
            files=etc_files(pod, place.link.ips, machine.host_ip),
            executables={f"/usr/bin/{name}": _shim(tool) for name, tool in tools.items()},
            mounts=(
                *_mounts(container, volumes, env),
                Mount(str(place.message(container.name)), container.termination_message_path),
            ),
            hidden=(str(machine.home.root),),
            readonly=context.read_only_root_filesystem,
        ),
    )


def _command(
    container: Container, image: Image, env: Mapping[str, str]
) -> tuple[str, tuple[str, ...]]:
    """(built-in program or nothing, arguments) by the rules of ENTRYPOINT and CMD."""
    command = tuple(expand(part, env) for part in container.command)
    args = tuple(expand(part, env) for part in container.args)
    if command:
        return "", command + args
    if args and image.runs_commands and (args[0] in image.tools or _has_machine(args[0])):
        return "", args
    if image.program:
        return image.program, args or image.arguments
    return "", (*image.command, *(args or image.arguments))


def _user(
    machine: Machine, container: Container, context: SecurityContext, image: Image
) -> tuple[int, int, tuple[int, ...]]:
    """(user, group, further groups). Raises BadPod."""
    uid, gid = context.run_as_user, context.run_as_group or 0
    if context.run_as_non_root:
        if uid == 0:
            raise BadPod(
                "securityContext: runAsNonRoot is set, and runAsUser is 0; name another user, or "
                "none to run as nobody"
            )
        uid = uid or image.user or NOBODY
    if uid is None and image.root:
        uid, gid = (
            image.uid,
            context.run_as_group if context.run_as_group is not None else image.gid,
        )
    groups = context.supplemental_groups
    if context.fs_group is not None:
        groups = (*groups, context.fs_group)
    # One user is all that a user namespace has.
    return (uid or 0, gid, groups) if machine.is_root else (0, 0, ())


def pod_owner(machine: Machine, pod: Pod) -> Owner:
    """Whom a pod's volumes belong to."""
    if not machine.is_root:
        return Owner(0, None)
    shared = pod.spec.security_context
    contexts = [_merged(shared, c.security_context) for c in pod.spec.containers]
    users = {c.run_as_user or (NOBODY if c.run_as_non_root else 0) for c in contexts}
    return Owner(users.pop() if len(users) == 1 else None, shared.fs_group)


def _limits(container: Container) -> Wanted:
    limits, requests = container.resources.limits, container.resources.requests
    cpu, memory = str(limits.get("cpu", 0)), str(limits.get("memory", 0))
    request = str(requests.get("cpu", cpu))
    return Wanted(int(quantity(memory)), quantity(cpu), quantity(request))


def _has_machine(name: str) -> bool:
    return shutil.which(name, path=PATH) is not None


def _shim(program: str) -> str:
    """What a shell in the container finds under a built-in program's name."""
    return f'#!/bin/sh\nexec {sys.executable} -m meltemi.local.images.programs {program} "$@"\n'


def proxy_start(
    machine: Machine,
    pod: Pod,
    container: Container,
    launch: Launch,
    *,
    directory: Path,
    place: Place,
    volumes: Volumes,
) -> Start:
    """The process of an istio-proxy container: Envoy, which sees its own directory, xDS, and the
    volumes that its user gave it. Raises BadPod."""
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
        hostname=hostname_of(pod),
        cgroups=machine.cgroups.make(pod.metadata.uid, container.name, _limits(container)),
        root=Root(
            layer=str(place.directory / "layers" / container.name),
            files=etc_files(pod, place.link.ips, machine.host_ip),
            mounts=(
                *_mounts(_own_volumes(container), volumes, launch.env),
                Mount(xds, xds, readonly=True),
                Mount(str(directory), str(directory)),
                Mount(binary, ENVOY, readonly=True),
            ),
            hidden=(_closed(home.root),),
        ),
    )


_AGENTS_VOLUMES = frozenset(
    {"istiod-ca-cert", "istio-data", "istio-envoy", "istio-token", "istio-podinfo"}
)
"""Of the injected container, for an agent beside Envoy: here the node does its work."""


def _own_volumes(container: Container) -> Container:
    mounts = tuple(m for m in container.volume_mounts if m.name not in _AGENTS_VOLUMES)
    return msgspec.structs.replace(container, volume_mounts=mounts)


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
    """Their numbers. Raises BadPod for a name that is none."""
    for field in ("add", "drop"):
        for name in getattr(context.capabilities, field):
            if name != "ALL" and name.removeprefix("CAP_") not in _CAPABILITY:
                raise BadPod(
                    f"securityContext.capabilities.{field}: {name} is no capability; write them "
                    "as in capabilities(7), such as NET_ADMIN"
                )
    if context.privileged:
        return tuple(_CAPABILITY.values())
    drop = {name.removeprefix("CAP_") for name in context.capabilities.drop}
    kept = set() if "ALL" in drop else set(DEFAULT_CAPABILITIES)
    kept -= {_CAPABILITY[name] for name in drop if name != "ALL"}
    for name in context.capabilities.add:
        if name == "ALL":
            kept |= set(_CAPABILITY.values())
        else:
            kept.add(_CAPABILITY[name.removeprefix("CAP_")])
    return tuple(sorted(kept))


def _mounts(container: Container, volumes: Volumes, env: Mapping[str, str]) -> tuple[Mount, ...]:
    found = []
    for mount in container.volume_mounts:
        sub_path = expand(mount.sub_path_expr, env) or mount.sub_path
        source = volumes.mount(container, mount, sub_path)
        found.append(Mount(str(source), mount.mount_path, mount.read_only))
    return tuple(found)


def _closed(path: Path) -> str:
    """The topmost directory on the way to a path that other users may not enter; else the path."""
    for part in (*reversed(path.parents), path):
        if part != Path("/") and not os.stat(part).st_mode & 0o001:
            return str(part)
    return str(path)
