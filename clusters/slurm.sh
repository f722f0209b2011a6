#!/usr/bin/env bash
# One rayreid command on Slurm: a Ray cluster of the job's nodes, which ends with it.
#
# What it starts   a Ray head on the job's first node and a Ray node on each other one, with a token
#                  of this job's own; then the command, on the head.
# Start            sbatch clusters/slurm.sh train gmn --source market1501=/shared/Market-1501 \
#                    --workers 4 --results /shared/results
#                  (the lines below ask for four nodes with a GPU each; sbatch's options override
#                  them; rayreid is what RAYREID names, by default the one in .venv of the folder
#                  that sbatch was called in, which all nodes must see)
# Stop             scancel JOB
# If forgotten     nothing runs on after the command, or after --time. Until then all nodes are
#                  charged to your account, whether the command uses them or not. The same command
#                  again goes on where --time cut it off.

#SBATCH --job-name=rayreid
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120

set -euo pipefail

if [[ $# -eq 0 ]]; then
    echo "Error: which command? sbatch clusters/slurm.sh train METHOD ..." >&2
    exit 2
fi
rayreid=${RAYREID:-$SLURM_SUBMIT_DIR/.venv/bin/rayreid}
ray=$(dirname "$rayreid")/ray
for program in "$rayreid" "$ray"; do
    if [[ ! -x $program ]]; then
        echo "Error: there is no $program; install rayreid there, or set RAYREID to where it is" >&2
        exit 2
    fi
done

# All nodes must see the token, and nobody else.
umask 077
shared=$SLURM_SUBMIT_DIR/.rayreid-$SLURM_JOB_ID
mkdir -p "$shared"
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$shared/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$shared/token RAY_USAGE_STATS_ENABLED=0
# Nodes are told to end when the command has: there is nothing to wait for, and Slurm waits for 30 s.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

nodes=()
# shellcheck disable=SC2329  # the trap calls it
end() {
    trap - EXIT TERM INT
    # Only what this script began: other jobs may have their Ray on the same machines.
    if ((${#nodes[@]})); then
        kill "${nodes[@]}" 2> /dev/null || true
        wait "${nodes[@]}" 2> /dev/null || true
    fi
    rm -rf "$shared"
}
command=
# shellcheck disable=SC2329  # likewise
asked_to_end() {
    # The command first: it writes what it has, and the script ends after it.
    if [[ -n $command ]]; then kill "$command" 2> /dev/null || true; else exit 143; fi
}
trap 'end' EXIT
trap 'asked_to_end' TERM INT

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')
# Jobs that share a machine must not share ports: the head's three follow from the job's number, the
# others are what is free.
port=$((10000 + 3 * (SLURM_JOB_ID % 7000)))
options=(
    --block --disable-usage-stats --num-cpus="${SLURM_CPUS_PER_TASK:-1}"
    --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0
)
# Ray's sockets need a short path, of this job and on the node's own disk.
place=/tmp/ray-$SLURM_JOB_ID

begin() {
    local host=$1
    shift
    srun --nodes=1 --ntasks=1 --nodelist="$host" --overlap --export=ALL \
        "$ray" start "${options[@]}" "$@" > "$SLURM_SUBMIT_DIR/ray-$SLURM_JOB_ID-$host.log" 2>&1 &
    nodes+=($!)
}

begin "$head" --head --node-ip-address="$address" --port="$port" --temp-dir="$place" \
    --ray-client-server-port="$((port + 1))" --dashboard-host=127.0.0.1 \
    --dashboard-port="$((port + 2))"
export RAY_ADDRESS=$address:$port
for ((tries = 0; tries < 60; tries++)); do
    if "$ray" status > /dev/null 2>&1; then break; fi
    sleep 2
done
for host in "${hosts[@]:1}"; do
    begin "$host" --address="$RAY_ADDRESS"
done
up=0
for ((tries = 0; tries < 60; tries++)); do
    up=$("$ray" status 2> /dev/null | grep -c '^ 1 node_' || true)
    if ((up >= ${#hosts[@]})); then break; fi
    sleep 2
done
if ((up < ${#hosts[@]})); then
    echo "Error: $up of ${#hosts[@]} nodes came up; see ray-$SLURM_JOB_ID-*.log" >&2
    exit 1
fi

# In the background, so that the trap hears Slurm's warning before --time is over.
"$rayreid" "$@" &
command=$!
code=0
wait "$command" || code=$?
# A trap ends the first wait; the second is for the command's own end.
if kill -0 "$command" 2> /dev/null; then wait "$command" || code=$?; fi
exit "$code"
