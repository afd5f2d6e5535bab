#!/bin/bash
#
# corral-pocket: Ray and the herd in one allocation. Corral wrote this from the profile.
# There are no secrets in it: those are files of mode 0600 in the job folder, named by path.
#
# Group big
#SBATCH --job-name=corral-pocket
#SBATCH --comment=corral
#SBATCH --output="/shared/me/jobs/my job/logs/job.log"
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --account=llamas
#SBATCH --partition=h200
#SBATCH --time=0-04:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem=262144M
#SBATCH --gres=gpu:h200:4
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH hetjob
# Group small
#SBATCH --account=llamas
#SBATCH --partition=gpu
#SBATCH --constraint=a100|a40
#SBATCH --time=0-04:00:00
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=65536M
#SBATCH --gres=gpu:1
#SBATCH --no-kill
#SBATCH --requeue

set -u
folder='/shared/me/jobs/my job'

if ! { cd "$folder" && mkdir -p logs; }; then
  echo "corral: $(hostname) cannot use the job folder $folder; 'shared' must be a folder that all nodes see" >&2
  exit 1
fi
rm -f drain stop deadline .deadline  # a job that was requeued starts afresh

# One line of the timeline: unix seconds, what happened, on which node.
event() {
  printf '%s %s %s\n' "$(date +%s.%3N)" "$1" "$2" >>"$folder/timeline"
}

event 'job started' "${SLURMD_NODENAME:-$(hostname)}"

# SLURM sends USR1 when the walltime is near. TERM comes from `scancel --batch --signal=TERM`, or with the end.
interrupted=''
trap 'interrupted=1; touch "$folder/drain"' USR1
trap 'interrupted=1; touch "$folder/stop"' TERM

# The environment of every node.
export USER="${USER:-$(id -un)}"
export SLURM_EXPORT_ENV=ALL
if [ -z "${SLURM_JOB_END_TIME:-}" ]; then  # SLURM tells it itself since 23.02
  SLURM_JOB_END_TIME=$(SLURM_TIME_FORMAT=%s squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e | sort | head -n 1)
  export SLURM_JOB_END_TIME
fi
export HF_HUB_OFFLINE=1
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH='/shared/me/jobs/my job/token'
export TMPDIR=/tmp

# What each node runs, before node, role and group. The shell in front is for the lines of `setup`, and for the end where
# the head's node died: the batch script died with it, and SLURM (seen on 22.05) lets such a job run on without one.
IFS= read -r -d '' on_node <<'END_OF_SETUP' || :
set -e
job=$1
cd "$2" || { echo "corral: $(hostname) does not see $2; 'shared' must be a folder that all nodes see" >&2; exit 1; }
shift 2
set +e
"$@" &
child=$! status=127 interrupted=1
trap 'interrupted=1; kill -TERM "$child" 2>/dev/null' TERM INT
while [ -n "$interrupted" ]; do
  interrupted=''
  wait "$child"
  seen=$?
  [ "$seen" = 127 ] || status=$seen
done
if [ "$status" = 76 ]; then
  for ((attempt = 0; attempt < 60; attempt++)); do
    scontrol requeue "$job" && break
    sleep 30
  done
fi
exit "$status"
END_OF_SETUP
command=(
  bash -c "$on_node" on-node "$SLURM_JOB_ID" "$folder"
  /opt/corral/bin/python
  -P
  -m
  slurm.node
  '/shared/me/jobs/my job'
)

# step ROLE GROUP NODE [SRUN OPTION]: starts one node's step; its srun is then $srun.
step() {
  local role=$1 group=$2 node=$3
  shift 3
  event 'step started' "$node"
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" "$@" --mem=0 --cpu-bind=none --mpi=none \
    --kill-on-bad-exit=0 --input=none --job-name="$role-$node" \
    "${command[@]}" "$node" "$role" "$group" >>"logs/node-$node.log" 2>&1 &
  srun=$!
}

# until_end PID: waits for a child of this shell through all signals; returns its status.
until_end() {
  local status=127 seen
  while :; do
    interrupted=''
    wait "$1"
    seen=$?
    [ "$seen" = 127 ] || status=$seen  # 127 when it was already told
    [ -n "$interrupted" ] || return "$status"
  done
}

# worker GROUP NODE [SRUN OPTION]: a step and the one who watches it; the job goes on without it, and tries it again.
worker() {
  local srun='' status round pause
  trap 'interrupted=1; [ -z "$srun" ] || kill -TERM "$srun"' TERM
  trap '' USR1
  for ((round = 0; round < 6; round++)); do
    step worker "$@"
    until_end "$srun"
    status=$?
    event 'step ended' "$2"
    [ -e stop ] && break
    echo "corral: the step of worker $2 (group $1) ended with status $status; see logs/node-$2.log" >&2
    case $status in 75 | 76 | 143) break ;; esac
    for ((pause = 10 + 20 * round; pause > 0; pause--)); do
      [ -e stop ] && break 2
      sleep 1
    done
  done
}

# What SLURM would pass on to a job that is submitted from here.
of_this_job() {
  compgen -e | grep -E '^(SLURM|SBATCH|SRUN|SLURMD)_|^(CUDA|ROCR)_VISIBLE_DEVICES$|^GPU_DEVICE_ORDINAL$|^TMPDIR$' |
    grep -v '^SLURM_CONF' | sed 's/^/--unset=/'
}

# Jobs that the head asks for: it may be in a container, where there is no sbatch. And when SLURM will end this one.
errands() {
  local order job round=0
  trap - TERM USR1
  while :; do
    if [ $((round++ % 30)) = 0 ]; then
      SLURM_TIME_FORMAT=%s squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e 2>/dev/null | sort | head -n 1 >.deadline
      [ -s .deadline ] && mv .deadline deadline
    fi
    for order in submit/*; do
      case $order in *.*) continue ;; esac
      if [ ! -f "$order" ] || [ -e "$order.id" ] || [ -e "$order.error" ] || [ -e "$order.cancel" ]; then continue; fi
      job=$(cat "$order")
      # shellcheck disable=SC2046
      if env $(of_this_job) sbatch --parsable "$job/job.sh" >"$order.out" 2>"$order.said"; then
        mv "$order.out" "$order.id"
      else
        mv "$order.said" "$order.error"
      fi
    done
    for order in submit/*.cancel; do
      [ -f "${order%.cancel}.id" ] && scancel "$(cut -d';' -f1 "${order%.cancel}.id")" 2>/dev/null
      [ -f "${order%.cancel}.id" ] && mv "$order" "$order.led"
    done
    sleep 1
  done
}

# Nodes that joined by jobs of their own end with this one.
end_joiners() {
  local order job
  for order in submit/*.id; do
    [ -f "$order" ] || continue
    job=$(cat "${order%.id}")
    [ -e "$job/joins" ] && scancel "$(cut -d';' -f1 "$order")" 2>/dev/null
  done
}

workers=''
# group NAME NODELIST [SRUN OPTION]: a worker on every node but the head.
group() {
  local name=$1 node
  for node in $(scontrol show hostnames "$2"); do
    [ "$node $name" = "$head $head_group" ] && continue
    worker "$name" "$node" "${@:3}" &
    workers="$workers $!"
  done
}

working() {
  local pid
  for pid in $workers; do
    kill -0 "$pid" 2>/dev/null && return 0
  done
  return 1
}

# end_within SECONDS: true once no worker is left.
end_within() {
  local round
  for ((round = 0; round < $1 * 5; round++)); do
    working || return 0
    sleep 0.2
  done
  ! working
}

head_group=big
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST_HET_GROUP_0" | head -n 1)
: "${head:?corral: SLURM does not say which nodes this job has}"
step head "$head_group" "$head" --het-group=0
head_srun=$srun
group big "$SLURM_JOB_NODELIST_HET_GROUP_0" --het-group=0
group small "$SLURM_JOB_NODELIST_HET_GROUP_1" --het-group=1

errands &
errands=$!

until_end "$head_srun"
status=$?
event 'step ended' "$head"
echo "corral: the head's step ended with status $status; see logs/node-$head.log" >&2

# Status 75: SLURM told the steps to end. After a preemption it says next whether this job is requeued or killed; a job
# that ends before would count as done.
if [ "$status" = 75 ] || [ "$status" = 143 ]; then
  for ((round = 0; round < 120; round++)); do
    [ -e stop ] && break
    sleep 1
  done
fi
kill "$errands" 2>/dev/null
end_joiners

# The workers see the file and end by themselves; whoever does not is ended by its own srun.
touch stop
end_within 15 || {
  for pid in $workers; do
    kill -TERM "$pid" 2>/dev/null
  done
  end_within 10
}
exit "$status"
