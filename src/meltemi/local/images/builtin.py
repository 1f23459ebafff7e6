"""The images that need no table: Bookinfo, the mesh's own, and those that tasks and samples use."""

import shutil
from collections.abc import Mapping

from meltemi.local.images.image import Image

_NETWORK = {"wget": "wget", "nslookup": "nslookup", "nc": "nc"}
_CURL = {"curl": "curl"}
_SHELL = Image(arguments=("/bin/sh",), tools=_NETWORK)
_TOOLBOX = Image(arguments=("/bin/sh",), tools={**_NETWORK, **_CURL})
_CURL_IMAGE = Image(program="curl", tools={**_CURL, "nslookup": "nslookup"}, runs_commands=True)
_FORTIO = Image(program="fortio", arguments=("server",), tools={"fortio": "fortio"})
_GUNICORN = {"gunicorn": "httpbin"}
_HTTPBIN = Image(program="httpbin", arguments=("--port", "80"), tools=_GUNICORN)
_GO_ARGUMENTS = ("--port", "8080", "--lists")
_GO_HTTPBIN = Image(program="httpbin", arguments=_GO_ARGUMENTS, tools={"go-httpbin": "httpbin"})
_ECHO = Image(program="echo")
_ECHO_80 = Image(program="echo", arguments=("--port", "80"))
_TCP_ECHO = Image(program="tcp-echo", arguments=("9000", ""), tools={"tcp-echo": "tcp-echo"})
_WEB = Image(program="web", tools={"nginx": "web"})
_UNPRIVILEGED_WEB = Image(program="web", arguments=("--port", "8080"), tools={"nginx": "web"})


def _reviews(version: str, **env: str) -> Image:
    return Image(program="reviews", env={"SERVICE_VERSION": version, **env})


IMAGES: Mapping[str, Image] = {
    # By the last part of the name; an owner stands before it where the part alone says too little.
    "proxyv2": Image(is_proxy=True),
    "examples-bookinfo-productpage-v1": Image(program="productpage"),
    "examples-bookinfo-details-v1": Image(program="details"),
    "examples-bookinfo-details-v2": Image(program="details"),
    "examples-bookinfo-ratings-v1": Image(program="ratings"),
    "examples-bookinfo-reviews-v1": _reviews("v1", ENABLE_RATINGS="false"),
    "examples-bookinfo-reviews-v2": _reviews("v2", ENABLE_RATINGS="true", STAR_COLOR="black"),
    "examples-bookinfo-reviews-v3": _reviews("v3", ENABLE_RATINGS="true", STAR_COLOR="red"),
    "examples-helloworld-v1": Image(program="helloworld", env={"SERVICE_VERSION": "v1"}),
    "examples-helloworld-v2": Image(program="helloworld", env={"SERVICE_VERSION": "v2"}),
    "meltemi/traffic": Image(program="traffic"),
    "meltemi/echo": _ECHO,
    "meltemi/h2-echo": Image(program="h2-echo"),
    "meltemi/grpc-echo": Image(program="h2-echo"),
    "curlimages/curl": _CURL_IMAGE,
    "pstauffer/curl": _CURL_IMAGE,
    "appropriate/curl": _CURL_IMAGE,
    "alpine/curl": _CURL_IMAGE,
    "curl": _CURL_IMAGE,
    "sleep": Image(program="sleep"),
    "pause": Image(program="sleep"),
    "kennethreitz/httpbin": _HTTPBIN,
    "kong/httpbin": _HTTPBIN,
    "citizenstig/httpbin": Image(program="httpbin", arguments=("--port", "8000"), tools=_GUNICORN),
    "go-httpbin": _GO_HTTPBIN,
    "httpbin": _HTTPBIN,
    "fortio": _FORTIO,
    "tcp-echo-server": _TCP_ECHO,
    "tcp-echo": _TCP_ECHO,
    "http-echo": Image(program="http-echo"),
    "ealen/echo-server": _ECHO_80,
    "echo-server": _ECHO,
    "echoserver": _ECHO,
    "echo": _ECHO,
    "nicolaka/netshoot": _TOOLBOX,
    "radial/busyboxplus": _TOOLBOX,
    "busybox": _SHELL,
    "alpine": _SHELL,
    "debian": Image(arguments=("/bin/bash",)),
    "ubuntu": Image(arguments=("/bin/bash",)),
    "bash": Image(arguments=("/bin/bash",)),
    "python": Image(arguments=("python3",)),
    "nginx": _WEB,
    "nginx-unprivileged": _UNPRIVILEGED_WEB,
    "httpd": Image(program="web", arguments=("--root", "/usr/local/apache2/htdocs")),
}


def images() -> Mapping[str, Image]:
    """Patterns over all registries; where the machine has the real thing, that is what runs."""
    found = dict(IMAGES)
    if shutil.which("nginx"):
        found["nginx"] = Image(arguments=("nginx", "-g", "daemon off;"))
    if shutil.which("busybox"):
        found["busybox"] = Image(arguments=("busybox", "sh"), tools=_NETWORK)
    return {pattern: image for name, image in found.items() for pattern in (name, f"*/{name}")}
