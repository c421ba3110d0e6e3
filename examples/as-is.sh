#!/bin/sh
# The reference as it is: retrieval, zero-shot and a linear probe from its cache, without its weights.
# Only the first command loads the reference, to embed the names of the classes.
#
#   examples/as-is.sh DATASET CACHE PROMPTS      e.g. examples/openclipart caches/openclipart prompts
set -eu
rhocache prompts "$2" --dataset "$1" --class-field category --out "$3"
rhocache evaluate --cache "$2" --prompts "$3" "$1" --class-field category --linear-probe
