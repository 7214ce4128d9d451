#!/usr/bin/env bash
# Serves a model that convert.sh wrote, with a TensorFlow Serving that is built for TPUs, on this TPU VM.
#
#     SERVER_IMAGE=... serving/tpu/serve.sh build/tpu-models/digits digits 8500
#
# The image is a tensorflow_model_server with TPU support, as the documentation of Cloud TPU inference names it
# (cloud.google.com/tpu/docs/v5e-inference); the one on Docker Hub has none. docs/tpu-serving.md has the whole route.
set -euo pipefail

fail() {
  echo "error: $1" >&2
  exit 2
}

[[ $# -eq 3 ]] || fail "expected MODEL, NAME and PORT: the model's folder, its name for clients, the port for gRPC"
[[ -n ${SERVER_IMAGE:-} ]] || fail "SERVER_IMAGE is not set; name an image of TensorFlow Serving (docs/tpu-serving.md)"
[[ -d $1 ]] || fail "$1 is no folder; name the model's folder that convert.sh wrote below"
[[ $3 =~ ^[0-9]+$ ]] || fail "the port is $3; expected a number"

model=$(realpath "$1")
# Privileged, since the TPU's devices are the host's.
exec docker run --rm --privileged --publish "$3:8500" \
  --mount "type=bind,source=$model,target=/models/$2,readonly" \
  --entrypoint tensorflow_model_server \
  "$SERVER_IMAGE" \
  --port=8500 \
  --model_name="$2" \
  --model_base_path="/models/$2"
