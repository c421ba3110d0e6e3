#!/bin/bash
# Scores a dataset on many nodes of a Slurm cluster, with a Ray of its own that ends with the job:
#   sbatch --nodes=16 --gpus-per-node=8 deploy/slurm.sh DATASET --model ViT-B-32 --pretrained ... --out CACHE
# What it is given goes to `rhocache score`. Preempted or out of time, it is queued again and goes on.
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

score='' workers=() leaving=''
# Two minutes before the end: nodes finish the shards that they have time for, and the next run does
# the others.
# shellcheck disable=SC2329 # the trap calls it
leave() {
  leaving=yes
  kill -TERM "${workers[@]}" 2> /dev/null || true
  [ -z "$score" ] || { sleep 100 && kill -TERM "$score" 2> /dev/null; } &
}
trap leave TERM
trap 'jobs -p | xargs -r kill 2> /dev/null || true; rm -rf "$scratch"' EXIT

step=(srun --nodes=1 --ntasks=1 --overlap --export=ALL)
on_head=("${step[@]}" --nodelist="$head")

"${on_head[@]}" ray start --head --block --node-ip-address="$head" --port="$port" \
  --num-cpus="$cpus" --num-gpus="$gpus" --include-dashboard=false &
until "${on_head[@]}" ray status --address="$head:$port" &> /dev/null; do sleep 2; done
for worker in "${nodes[@]:1}"; do
  RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=90 "${step[@]}" --nodelist="$worker" \
    ray start --block --address="$head:$port" --num-cpus="$cpus" --num-gpus="$gpus" &
  workers+=($!)
done

"${on_head[@]}" rhocache score "$@" --ray-address "$head:$port" &
score=$!
code=0
wait "$score" || code=$?
# A trapped signal ends the first wait before what is waited for has ended.
if kill -0 "$score" 2> /dev/null; then
  code=0
  wait "$score" || code=$?
fi
if [ -n "$leaving" ] && [ "$code" -ne 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
