"""What a certificate says, and which keys are refused."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from meltemi.base.identity import Identity
from meltemi.ca import sign
from meltemi.ca.errors import BadAuthority, BadRequest
from meltemi.ca.sign import Names, Subject

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)
REVIEWS = Identity("cluster.local", "default", "reviews")
KEY = ec.generate_private_key(ec.SECP256R1())


def signed(root: sign.Authority, subject: Subject = Subject(), **options) -> x509.Certificate:  # noqa: B008
    defaults = {"lifetime": HOUR, "now": NOW, "serial": 7}
    names = Names(identity=REVIEWS)
    return sign.leaf(root, KEY.public_key(), names, subject, **(defaults | options))


def test_a_leaf_carries_identity_subject_usages_and_a_backdated_start(root) -> None:
    leaf = signed(root, Subject("reviews-v1", "default", "reviews", "v1"))
    leaf.verify_directly_issued_by(root.certificate)
    assert leaf.subject.rfc4514_string() == "L=v1,OU=reviews,O=default,CN=reviews-v1"
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.value.get_values_for_type(x509.UniformResourceIdentifier) == [REVIEWS.uri]
    assert not san.critical
    assert leaf.not_valid_before_utc == NOW - datetime.timedelta(minutes=2)
    assert leaf.not_valid_after_utc == NOW + HOUR
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign) == (True, False)


def test_without_a_subject_the_names_are_critical(root) -> None:
    san = signed(root).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.critical


def test_a_leaf_never_outlives_its_issuer(root) -> None:
    late = root.certificate.not_valid_after_utc - HOUR / 2
    assert signed(root, now=late).not_valid_after_utc == root.certificate.not_valid_after_utc


@given(st.text(max_size=80))
def test_subject_values_are_label_text_or_absent(text: str) -> None:
    root = sign.self_signed(KEY, "cluster.local", now=NOW, serial=1)
    leaf = signed(root, Subject(app=text))
    values = [attribute.value for attribute in leaf.subject]
    assert values in ([], [text])
    assert "," not in "".join(values)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),
        ec.generate_private_key(ec.SECP192R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa1024", "p192", "ed25519"],
)
def test_weak_and_unknown_keys_are_refused(make_csr, key) -> None:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        from cryptography.hazmat.primitives.serialization import Encoding

        csr = builder.sign(key, None).public_bytes(Encoding.PEM)
    else:
        csr = make_csr(key)
    with pytest.raises(BadRequest, match="must be P-256"):
        sign.public_key_from_csr(csr)


@pytest.mark.parametrize("key", [KEY, rsa.generate_private_key(65537, 2048)], ids=["p256", "rsa"])
def test_good_keys_are_taken_from_the_csr(make_csr, key) -> None:
    assert sign.public_key_from_csr(make_csr(key)) == key.public_key()


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"x" * 20_000], ids=["empty", "text", "huge"])
def test_garbage_is_refused(pem: bytes) -> None:
    with pytest.raises(BadRequest):
        sign.public_key_from_csr(pem)


def test_a_csr_that_is_not_signed_by_its_key_is_refused(make_csr) -> None:
    good = x509.load_pem_x509_csr(make_csr(KEY))
    from cryptography.hazmat.primitives.serialization import Encoding

    der = bytearray(good.public_bytes(Encoding.DER))
    at = der.find(b"admin")
    der[at : at + 5] = b"other"
    bad = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(BadRequest, match="own key"):
        sign.public_key_from_csr(bad)


def test_lifetimes_have_a_default_and_a_limit() -> None:
    assert sign.lifetime_from_request(0) == datetime.timedelta(hours=24)
    assert sign.lifetime_from_request(60) == datetime.timedelta(seconds=60)
    with pytest.raises(BadRequest, match="90 days"):
        sign.lifetime_from_request(91 * 86400)


def test_a_plugged_in_intermediate_sends_its_chain_and_trusts_the_root(root) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    middle = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "m")]))
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(2)
        .not_valid_before(NOW)
        .not_valid_after(NOW + 100 * HOUR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root.key, sign.hashes.SHA256())
    )
    pem = sign.pem([middle])
    authority = sign.authority_from_pem(
        pem, sign.key_pem(key), chain=pem + root.roots, roots=root.roots, where="Secret/cacerts"
    )
    assert authority.chain == (middle,)
    assert authority.roots == root.roots
    signed(authority, now=NOW + HOUR).verify_directly_issued_by(middle)


def test_a_key_of_another_certificate_is_named(root) -> None:
    with pytest.raises(BadAuthority, match="Secret/x: the key does not belong"):
        sign.authority_from_pem(root.roots, sign.key_pem(KEY), where="Secret/x")
