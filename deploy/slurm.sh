#!/bin/bash
# Scores a dataset on many nodes of a Slurm cluster, with a Ray of its own that ends with the job:
#   sbatch --nodes=16 --gpus-per-node=8 deploy/slurm.sh DATASET --model ViT-B-32 --pretrained ... --out CACHE
# What it is given goes to `rhocache score`. Preempted or out of time, submit it again: it goes on.
#SBATCH --job-name=rhocache
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=rhocache-%j.log
set -euo pipefail

if [ "$#" -eq 0 ]; then
  echo "give what rhocache score takes: DATASET --model MODEL --out CACHE" >&2
  exit 2
fi
if [ -z "${SLURM_JOB_NODELIST:-}" ]; then
  echo "run it with sbatch: there is no Slurm job around it" >&2
  exit 2
fi

# Whoever reaches a Ray runs code there: this one asks for a token that no other user can read.
umask 077
scratch=$(mktemp -d)
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID # short: sockets lie in it

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 20000))
gpus=${SLURM_GPUS_ON_NODE:-0}
cpus=${SLURM_CPUS_PER_TASK:-$(nproc)}

score=
# Shards that are begun are given up, and the next run does them.
trap '[ -z "$score" ] || kill -TERM "$score" 2> /dev/null || true' TERM INT
trap 'jobs -p | xargs -r kill 2> /dev/null; rm -rf "$scratch"' EXIT

node() { srun --nodes=1 --ntasks=1 --nodelist="$1" --overlap --export=ALL "${@:2}"; }

node "$head" ray start --head --block --node-ip-address="$head" --port="$port" \
  --num-cpus="$cpus" --num-gpus="$gpus" --include-dashboard=false &
until node "$head" ray status --address="$head:$port" &> /dev/null; do sleep 2; done
for worker in "${nodes[@]:1}"; do
  node "$worker" ray start --block --address="$head:$port" --num-cpus="$cpus" --num-gpus="$gpus" &
done

node "$head" rhocache score "$@" --ray-address "$head:$port" &
score=$!
code=0
wait "$score" || code=$?
# A trapped signal ends the first wait before what is waited for has ended.
if kill -0 "$score" 2> /dev/null; then
  code=0
  wait "$score" || code=$?
fi
exit "$code"
