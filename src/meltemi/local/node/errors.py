"""
NodeError
├── NotStarted     a process could not be started; the text is the reason
├── ZygoteGone     the process that forks containers ended
├── NetworkFailed  a network namespace, a link or rules could not be made
├── VolumeMissing  something a volume or variable needs is not there (yet)
└── BadPod         the pod asks for what cannot be; its text names the field
    └── ImageMissing   no program stands in for a container's image
"""


class NodeError(Exception):
    """Base of what the node cannot do."""


class NotStarted(NodeError):
    pass


class ZygoteGone(NodeError):
    pass


class NetworkFailed(NodeError):
    pass


class VolumeMissing(NodeError):
    pass


class BadPod(NodeError):
    pass


class ImageMissing(BadPod):
    pass
