#!/usr/bin/env bash
# Makes a TPU's version of an export for TPU hosts, with the Cloud TPU Inference Converter.
#
#     CONVERTER_IMAGE=... serving/tpu/convert.sh build/models/digits/1 build/tpu-models/digits
#
# writes build/tpu-models/digits/1, in one rename. The image is the converter's own, by the name and tag that its
# documentation gives (cloud.google.com/tpu/docs/v5e-inference-converter); docs/tpu-serving.md says which tags can do.
set -euo pipefail

fail() {
  echo "error: $1" >&2
  exit 2
}

[[ $# -eq 2 ]] || fail "expected VERSION and MODEL: an exported version's folder, and the model's folder to write below"
[[ -n ${CONVERTER_IMAGE:-} ]] || fail "CONVERTER_IMAGE is not set; name the converter's image (docs/tpu-serving.md)"
[[ -f $1/saved_model.pb ]] || fail "$1 is no SavedModel version; name <repository>/<model>/<n>"
options=$1/assets.extra/converter_options.textproto
[[ -f $options ]] || fail "$options is missing: the version is for other servers; export again with --target tpu"

version=$(realpath "$1")
mkdir -p "$2"
model=$(realpath "$2")
number=$(basename "$version")
[[ ! -e $model/$number ]] || fail "$model/$number exists already and may be served; remove it first"

# A name that is no number: no server takes it for a version.
staged=$(mktemp -d "$model/.$number.partial-XXXXXX")
trap 'rm -rf "$staged"' EXIT
docker run --rm --user "$(id -u):$(id -g)" \
  --mount "type=bind,source=$version,target=/tmp/input,readonly" \
  --mount "type=bind,source=$staged,target=/tmp/output" \
  "$CONVERTER_IMAGE" \
  --input_model_dir=/tmp/input \
  --output_model_dir=/tmp/output \
  --converter_options_string="$(cat "$options")"
[[ -f $staged/saved_model.pb ]] || fail "the converter wrote no saved_model.pb; see its output above"
# The golden requests, which warm the server. Not the manifest: its hashes are of the graph before the conversion.
requests=$version/assets.extra/tf_serving_warmup_requests
if [[ -f $requests ]]; then
  mkdir -p "$staged/assets.extra"
  cp "$requests" "$staged/assets.extra/"
fi
chmod 755 "$staged"
mv -T "$staged" "$model/$number"
echo "$model/$number"
