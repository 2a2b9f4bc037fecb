#!/usr/bin/env bash
# c2pa's Reader loses the numbers of lists in signed assertions: [300, 1] comes back as "LAE=", [1, 2.5] as "AQ==".
#
# Guess:  what is signed as an assertion is read back as it was; if it could not be, signing or reading would fail.
# Fact:   c2pa-python 0.38.1 signs the list as it stands (the file has it in CBOR). `Reader.json()` and `detailed_json()` take a list of numbers for bytes: each whole number that is
#         not negative is cut to its lowest eight bits, all others are left out, and what remains is shown in Base64. 300 becomes 44; -1 and 2.5 are gone. Only lists whose elements
#         are texts, mappings or lists are shown as they are. The state of validation is Valid. `crjson()`, in another layout, gives the right numbers.
# Cost:   sizes, coordinates, thresholds and scores that were signed as evidence cannot be told from what readers show, in every program that is built on this reader.
# Remedy: sign such lists as texts or mappings; read other people's from `crjson()`. Reported for c2patool in c2pa-rs, issue 2570 (September 2026), which takes the file to be wrong; it is not.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'c2pa-python==0.38.1' 'cryptography==50.0.2' 'pillow==13.0.0'
"$folder/venv/bin/python" - <<'PY'
import datetime
import io
import json

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

USAGES = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign encipher_only decipher_only".split()


def named(text):
    return x509.Name([x509.NameAttribute(oid, text) for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)])


def certificate(name, key, usage):
    now = datetime.datetime.now()
    made = x509.CertificateBuilder(named("CA"), named(name), key.public_key(), 1, now - datetime.timedelta(1), now + datetime.timedelta(1))
    for extension, critical in (
        (x509.BasicConstraints(usage == "key_cert_sign", None), True),
        (x509.KeyUsage(**{one: one == usage for one in USAGES}), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False),
    ):
        made = made.add_extension(extension, critical)
    return made.sign(authority, None).public_bytes(s.Encoding.PEM)


authority, signer = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
chain = certificate("signer", signer, "digital_signature") + certificate("CA", authority, "key_cert_sign")
key = signer.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())

wanted = {"size": [300, 1], "shift": [-1, 5], "scores": [1, 2.5], "corners": [[300, 1], [2, 3]], "words": ["a"]}
picture, signed = io.BytesIO(), io.BytesIO()
Image.new("RGB", (8, 8)).save(picture, "PNG")
created = {"action": "c2pa.created", "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCreation"}
builder = c2pa.Builder(
    {
        "claim_generator_info": [{"name": "trial", "version": "1"}],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": "org.example.trial", "data": wanted},
        ],
    }
)
builder.sign(c2pa.Signer.from_info(c2pa.C2paSignerInfo("ed25519", chain, key, None)), "image/png", picture, signed)

reader = c2pa.Reader("image/png", signed)
[manifest] = json.loads(reader.json())["manifests"].values()
shown = next(one["data"] for one in manifest["assertions"] if one["label"] == "org.example.trial")
exact = json.loads(reader.crjson())["manifests"][0]["assertions"]["org.example.trial"]
print("state: ", reader.get_validation_state())
print("signed:", wanted)
print("json:  ", shown)
print("crjson:", exact)
as_told = {"size": "LAE=", "shift": "BQ==", "scores": "AQ==", "corners": [[300, 1], [2, 3]], "words": ["a"]}
raise SystemExit(0 if (shown, exact, reader.get_validation_state()) == (as_told, wanted, "Valid") else 1)
PY
