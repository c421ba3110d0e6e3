#!/bin/sh
# The reference as it is: retrieval, zero-shot and a linear probe from its cache, without its weights.
# Only the second command loads the reference, to score the prompts.
#
#   examples/as-is.sh DATASET CACHE MODEL PROMPTS      e.g. examples/openclipart caches/openclipart local-dir:examples/reference prompts
set -eu
rhocache prompts "$1" --class-field category --out "$4"
rhocache score "$4" --model "$3" --out "$4-cache"
rhocache evaluate --cache "$2" --prompts "$4-cache" "$1" --class-field category --linear-probe
