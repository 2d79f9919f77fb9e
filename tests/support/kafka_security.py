"""An Apache Kafka broker that also takes clients with a password, with and without TLS."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.support.kafka import ApacheKafka
from tests.support.kafka import why_not as why_no_kafka

USER: Final = "torpor"
PASSWORD: Final = "secret"
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_LOGIN: Final = "org.apache.kafka.common.security"
# OpenSSL's own settings would add extensions of their choice; these add none.
_OPENSSL_SETTINGS: Final = "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = torpor tests\n"


def why_not() -> str | None:
    """Say what is missing to run the secured broker here, or None when nothing is."""
    if shutil.which("openssl") is None:
        return "the secured Apache Kafka needs openssl for its certificates: there is none on PATH"
    return why_no_kafka()


def make_certificates(directory: Path) -> tuple[Path, Path]:
    """Make a certificate authority and a server certificate for 127.0.0.1, both good for two days.

    Returns the file that clients trust and the file with the server's key and certificate.
    """
    directory.mkdir(parents=True, exist_ok=True)
    trusted, server = directory / "ca.pem", directory / "server.pem"
    authority = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
    _certificate(trusted, authority, [])
    extensions = ["basicConstraints=critical,CA:FALSE", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    _certificate(server, extensions, ["-CA", str(trusted), "-CAkey", str(trusted.with_suffix(".key"))])
    # Kafka wants key and certificate in one file.
    server.write_text(server.with_suffix(".key").read_text() + server.read_text())
    return trusted, server


def _certificate(out: Path, extensions: list[str], signer: list[str]) -> None:
    settings = out.with_suffix(".cnf")
    settings.write_text(_OPENSSL_SETTINGS)
    command = ["openssl", "req", "-x509", "-config", str(settings), "-days", "2", "-noenc"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-keyout", str(out.with_suffix(".key")), "-out", str(out), *signer]
    for extension in [*extensions, "subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid:always"]:
        command += ["-addext", extension]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"openssl made no certificate:\n{result.stderr}")


class SecuredKafka(ApacheKafka):
    """ApacheKafka with two listeners more: one takes USER and PASSWORD in the clear, the other over TLS.

    Both take every mechanism in MECHANISMS. `bootstrap` stays the open listener.
    """

    def __init__(self, directory: Path) -> None:
        self.trusted, keystore = make_certificates(directory / "certificates")
        properties = {}
        for name in ("secured", "tls"):
            prefix = f"listener.name.{name}."
            properties[f"{prefix}sasl.enabled.mechanisms"] = ",".join(MECHANISMS)
            login = f'{_LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            properties[f"{prefix}plain.sasl.jaas.config"] = login
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                login = f"{_LOGIN}.scram.ScramLoginModule required;"
                properties[f"{prefix}{mechanism}.sasl.jaas.config"] = login
        properties["listener.name.tls.ssl.keystore.type"] = "PEM"
        properties["listener.name.tls.ssl.keystore.location"] = str(keystore)
        options = []
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            options += ["--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]"]
        listeners = {"SECURED": "SASL_PLAINTEXT", "TLS": "SASL_SSL"}
        super().__init__(directory, properties=properties, listeners=listeners, format_options=options)

    def client_settings(self, mechanism: str, *, tls: bool, password: str = PASSWORD) -> dict[str, str]:
        """Return what a kafka-python client needs to log in with this mechanism."""
        settings = {
            "bootstrap_servers": self.addresses["TLS" if tls else "SECURED"],
            "security_protocol": "SASL_SSL" if tls else "SASL_PLAINTEXT",
            "sasl_mechanism": mechanism,
            "sasl_plain_username": USER,
            "sasl_plain_password": password,
        }
        return settings | {"ssl_cafile": str(self.trusted)} if tls else settings
