"""Who may ask for what: API keys, and the reload call for administrators alone.

Part of desk.py on the way SavedModel -> server -> client; keys.py reads the keys. Without a file of keys everybody may
ask for everything, as in TensorFlow Serving. A refusal is one line in the log "serving.audit", never with the key.
"""

import json
import logging

import tensorflow as tf

from serving.call import Call, cut
from serving.keys import KeyFile

RELOAD = "HandleReloadConfigRequest"

audit = logging.getLogger("serving.audit")


class Guard:
    """Lets a call through or refuses it."""

    def __init__(self, *, keys: KeyFile | None = None, admin_keys: KeyFile | None = None, admin_port: bool = False):
        """Lets everybody through unless told otherwise.

        Args:
            keys: every call needs one of these, or of admin_keys.
            admin_keys: the reload call needs one of these.
            admin_port: the reload call is answered on the admin port alone. There it needs a key of admin_keys, or
                without such a file one of keys.
        """
        self._keys = keys
        self._admin_keys = admin_keys
        self._admin_port = admin_port

    def check(self, call: Call) -> None:
        """Notes whose key a call came with, where one is needed.

        Raises:
            tf.errors.UnauthenticatedError: it came without a key, or with nobody's.
            tf.errors.PermissionDeniedError: the holder of this key, or this port, may not ask for it.
        """
        try:
            if call.api == RELOAD:
                self._check_reload(call)
            elif self._keys is not None:
                call.user = self._holder(call)
        except (tf.errors.UnauthenticatedError, tf.errors.PermissionDeniedError) as error:
            _record(call, error)
            raise

    def _check_reload(self, call: Call) -> None:
        if self._admin_port and not call.admin:
            raise _denied(f"{RELOAD} is answered on the admin port alone (--admin_port)")
        if self._admin_keys is not None:
            call.user = self._holder(call)
            if self._admin_keys.holder(_key(call)) is None:
                raise _denied(f"{RELOAD} needs a key of --admin_keys_file")
        elif self._keys is not None:
            call.user = self._holder(call)
            if not call.admin:
                raise _denied(f"{RELOAD} needs an admin key, and this server has none; start it with --admin_keys_file")

    def _holder(self, call: Call) -> str:
        key = _key(call)
        if not key:
            text = "This server needs an API key; send it as authorization: Bearer KEY or as x-api-key: KEY"
            raise tf.errors.UnauthenticatedError(None, None, text)
        for keys in (self._admin_keys, self._keys):
            holder = None if keys is None else keys.holder(key)
            if holder is not None:
                return holder
        raise tf.errors.UnauthenticatedError(None, None, "The API key is none of this server's")


def _key(call: Call) -> str:
    """The key that a call came with; empty without one."""
    scheme, _, token = call.metadata.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return call.metadata.get("x-api-key", "").strip()


def _denied(text: str) -> tf.errors.PermissionDeniedError:
    return tf.errors.PermissionDeniedError(None, None, text)


def _record(call: Call, error: tf.errors.OpError) -> None:
    """One line; in JSON, since what the caller wrote may have line ends."""
    fields = {
        "api": call.api,
        "entrypoint": call.entrypoint,
        "peer": call.peer,
        "id": cut(call.id),
        "user": call.user,
        "model": cut(call.model),
        "reason": error.message,
    }
    audit.warning("Refused %s", json.dumps(fields))
