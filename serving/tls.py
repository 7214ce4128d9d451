"""The certificates of the ports: TLS, and mutual TLS, from the file of --ssl_config_file.

On the way SavedModel -> server -> client it is what the ports are opened with: gRPC always, REST with --rest_ssl.
What is wrong with a certificate is found before a port is open, and said; TensorFlow Serving aborts, or answers nobody.
"""

import ssl
import tempfile
from pathlib import Path

import grpc
import tensorflow as tf

from serving.server_config_pb2 import SSLConfig
from serving.status import invalid


def grpc_credentials(config: SSLConfig) -> grpc.ServerCredentials:
    """What a secure gRPC port is opened with.

    Raises:
        tf.errors.InvalidArgumentError: key, certificate or authority are of no use.
    """
    ssl_context(config)
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def ssl_context(config: SSLConfig) -> ssl.SSLContext:
    """The same for a port that takes Python's: HTTPS.

    Raises:
        tf.errors.InvalidArgumentError: key, certificate or authority are of no use.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for field in ("server_key", "server_cert"):
        if not getattr(config, field):
            raise _unusable(f"{field} is empty; expected the text of a PEM file")
    _load_pair(context, config)
    if config.custom_ca:
        try:
            context.load_verify_locations(cadata=config.custom_ca)
        except (ssl.SSLError, TypeError) as error:  # TypeError: it is not ASCII
            raise _unusable(f"custom_ca holds no certificate ({error}); expected the text of a PEM file") from error
    if config.client_verify:
        if not config.custom_ca:
            raise _unusable(
                "client_verify is true and custom_ca is empty, so that no client could connect; give the CA"
            )
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_pair(context: ssl.SSLContext, config: SSLConfig) -> None:
    """Loads key and certificate, which Python takes from files alone; the folder is its owner's alone and removed."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder, "key.pem"), Path(folder, "certificate.pem")
        key.write_text(config.server_key, encoding="utf-8")
        certificate.write_text(config.server_cert, encoding="utf-8")
        try:
            # An encrypted key would make OpenSSL ask for the password on the terminal.
            context.load_cert_chain(certificate, key, password=lambda: "")
        except ssl.SSLError as error:
            raise _unusable(f"server_key and server_cert are no pair of PEM texts: {error}") from error


def _unusable(text: str) -> tf.errors.InvalidArgumentError:
    return invalid(f"--ssl_config_file: {text}")
