"""What a kubeconfig may say, and how it is refused."""

import base64
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meltemi.kube.errors import BadKubeconfig
from meltemi.kube.kubeconfig import Access, access_from_file, access_in_cluster, ssl_context

CONFIG = """
apiVersion: v1
kind: Config
current-context: main
contexts:
- name: main
  context: {{cluster: c, user: u, namespace: team}}
clusters:
- name: c
  cluster: {{server: "https://127.0.0.1:6443/", {cluster}}}
users:
- name: u
  user: {{{user}}}
"""


def write(path: Path, *, cluster: str = "", user: str = "") -> Path:
    file = path / "kubeconfig"
    file.write_text(CONFIG.format(cluster=cluster, user=user))
    return file


def test_data_fields_tokens_and_namespace_are_read(tmp_path: Path) -> None:
    data = base64.b64encode(b"PEM").decode()
    file = write(tmp_path, cluster=f"certificate-authority-data: {data}", user="token: t0")
    access = access_from_file(file)
    assert (access.server, access.namespace, access.ca) == (
        "https://127.0.0.1:6443",
        "team",
        b"PEM",
    )
    assert "t0" not in repr(access)


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"FILE")
    file = write(tmp_path, cluster="certificate-authority: ca.pem", user="tokenFile: tok")
    access = access_from_file(file)
    assert access.ca == b"FILE"
    assert access.token_file == tmp_path / "tok"


@pytest.mark.parametrize(
    ("cluster", "user", "match"),
    [
        ("insecure-skip-tls-verify: true", "", "insecure-skip-tls-verify"),
        ("", "exec: {command: aws}", "kubectl create token"),
        ("", "username: admin", "use a token"),
        ("", "client-certificate-data: UEVN", "go together"),
        ("certificate-authority: missing.pem", "", "No such file"),
        ("certificate-authority-data: '%%'", "", "base64"),
    ],
)
def test_refusals_name_the_field_and_the_fix(tmp_path, cluster, user, match) -> None:
    with pytest.raises(BadKubeconfig, match=match):
        access_from_file(write(tmp_path, cluster=cluster, user=user))


def test_an_unknown_context_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadKubeconfig, match="context 'other'"):
        access_from_file(write(tmp_path), "other")


def test_in_cluster_access_reads_the_token_file_later(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"CA")
    (tmp_path / "namespace").write_text("istio-system\n")
    access = access_in_cluster("fd00::1", "443", tmp_path)
    assert access.server == "https://[fd00::1]:443"
    assert access.token_file == tmp_path / "token"


def test_tls_always_verifies() -> None:
    context = ssl_context(Access(server="https://127.0.0.1:1"))
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_broken_certificate_is_reported_without_its_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    from meltemi.base.redacted import Redacted

    access = Access(server="https://x", client_cert=b"nonsense", client_key=Redacted(key))
    with pytest.raises(BadKubeconfig) as caught:
        ssl_context(access)
    assert "PRIVATE" not in str(caught.value)
